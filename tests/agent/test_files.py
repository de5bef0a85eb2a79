"""Images and ISOs from the panel: fetched whole or not at all, never over somebody's file, gone on with after a cut.

The panel here is a small TLS server that shows the certificate of the cluster's CA, as the real listener does.
"""

import hashlib
import json
import os
import ssl
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nodes import generalise
from nodes.contract import messages as m
from nodes.contract.specs import DiskSpec, DomainDisk, DomainSpec, VolumeSpec
from nodes.panel_files import SENT_AT_ONCE_BYTES
from tests.agent.authority import PEM, Authority
from tests.agent.conftest import a_node
from tests.agent.folders import image_over_shadow, left
from tests.agent.panel import Panel, code

FILE, DISK, VM = "f" * 13, "d" * 13, "v" * 13
UUID = "11111111-2222-3333-4444-555555555555"
ISO = bytes(32769) + b"CD001" + os.urandom(3 << 20)
TOKEN = "only-for-this:file"


class Server:
    """Gives one file to whoever shows the token."""

    def __init__(self, authority):
        self.content = ISO
        self.breaks_after = []
        """For each request in turn: how many bytes it sends before it breaks off; empty: all."""
        self.ranges = []
        self.refusals = []
        """Statuses of the next requests."""
        self.is_down = False
        self.received = b""
        """Of a file that the node gives."""
        self.puts = []
        """(offset, bytes) of each chunk."""
        self.put_refusals = []
        """(status, what is said) for the next chunks."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.ranges.append(self.headers["Range"])
                if self.headers["Authorization"] != f"Bearer {TOKEN}":
                    return self.send_error(404)
                if server.refusals:
                    return self.send_error(server.refusals.pop(0))
                if server.is_down:
                    return self.send_error(503)
                offset = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                whole = len(server.content)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {offset}-{whole - 1}/{whole}")
                self.send_header("Content-Length", str(whole - offset))
                self.end_headers()
                until = offset + server.breaks_after.pop(0) if server.breaks_after else whole
                self.wfile.write(server.content[offset:until])
                return None

            def do_PUT(self):
                chunk = self.rfile.read(int(self.headers["Content-Length"]))
                offset, whole = (int(self.headers[name]) for name in ("Upload-Offset", "Upload-Length"))
                server.puts.append((offset, len(chunk)))
                if self.headers["Authorization"] != f"Bearer {TOKEN}":
                    return self.say(404, {})
                if server.put_refusals:
                    return self.say(*server.put_refusals.pop(0))
                if offset != len(server.received):
                    facts = {"offset": offset, "expected": len(server.received)}
                    return self.say(409, {"code": "upload_wrong_offset", "facts": facts})
                server.received += chunk
                return self.say(201 if len(server.received) == whole else 200, {"received_bytes": len(server.received)})

            def say(self, status, said):
                raw = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.file)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"https://127.0.0.1:{self.http.server_port}/api/v1/files/{FILE}/"


@pytest.fixture
def agent(shared_agent):
    yield shared_agent
    shared_agent.empty()


@pytest.fixture
def panel(agent):
    return agent.panel


@pytest.fixture
def server(agent, tmp_path):
    authority = Authority(tmp_path)
    trust(agent, authority)
    server = Server(authority)
    yield server
    server.http.shutdown()
    server.http.server_close()


def trust(agent, authority):
    ca = agent.folder / "pki" / "CA" / "cacert.pem"
    ca.parent.mkdir(parents=True, exist_ok=True)
    ca.write_bytes(authority.certificate.public_bytes(PEM))


def named(**changes):
    return {"id": FILE, "kind": "iso", "name": "install.iso", **changes}


def fetch(server, **changes):
    about = {
        "url": server.url,
        "token": TOKEN,
        "size_bytes": len(server.content),
        "checksum": "sha256:" + hashlib.sha256(server.content).hexdigest(),
    }
    return m.FileFetch(**{**named(), **about, **changes})


def test_an_iso_is_fetched_marked_and_shown_and_goes_again(agent, panel, server):
    panel.done(fetch(server))
    final = agent.isos / "install.iso"
    assert final.read_bytes() == ISO
    assert os.getxattr(final, "user.ulei.file").decode() == FILE
    assert left(agent.isos) == ["install.iso"]
    assert panel.done(m.FileLook(**named())) == {"exists": True, "ours": True, "used_by": []}
    panel.done(m.NodeInspect())
    assert [(file.name, file.mark) for file in panel.newest(m.Inventory).isos] == [("install.iso", FILE)]
    panel.done(fetch(server))
    assert server.ranges == ["bytes=0-"]
    panel.done(m.FileDelete(**named()))
    panel.done(m.FileDelete(**named()))
    assert left(agent.isos) == []
    assert panel.done(m.FileLook(**named())) == {"exists": False, "ours": False, "used_by": []}


def test_a_connection_that_breaks_is_made_anew_where_the_file_ends(agent, panel, server):
    server.breaks_after = [1 << 20, 1 << 20]
    panel.done(fetch(server))
    assert (agent.isos / "install.iso").read_bytes() == ISO
    assert server.ranges == ["bytes=0-", f"bytes={1 << 20}-", f"bytes={2 << 20}-"]


def test_a_panel_that_is_being_restarted_is_asked_again(agent, panel, server):
    server.refusals = [503]
    panel.done(fetch(server))
    assert len(server.ranges) == 2


@pytest.mark.parametrize("mark", [None, b"e" * 13])
def test_a_foreign_file_of_the_wanted_name_survives_everything(mark, agent, panel, server):
    final = agent.isos / "install.iso"
    final.write_text("somebody's")
    if mark:
        os.setxattr(final, "user.ulei.file", mark)
    assert code(panel.call(fetch(server))) == "exists_not_ours"
    assert code(panel.call(m.FileDelete(**named()))) == "exists_not_ours"
    assert panel.done(m.FileLook(**named()))["ours"] is False
    assert final.read_text() == "somebody's"
    assert server.ranges == []


def test_a_foreign_part_survives_and_a_symlink_is_never_followed(agent, panel, server):
    part = agent.isos / f"{FILE}.part"
    part.write_text("somebody's")
    assert code(panel.call(fetch(server))) == "exists_not_ours"
    panel.done(m.FileDelete(**named()))
    assert part.read_text() == "somebody's"
    part.unlink()
    target = agent.folder / "precious"
    target.write_text("somebody's")
    os.setxattr(target, "user.ulei.file", FILE.encode())
    (agent.isos / "install.iso").symlink_to(target)
    assert code(panel.call(fetch(server))) == "exists_not_ours"
    assert code(panel.call(m.FileDelete(**named()))) == "exists_not_ours"
    assert target.read_text() == "somebody's"


def test_another_content_than_promised_leaves_nothing(agent, panel, server):
    reply = panel.call(fetch(server, checksum="sha256:" + "0" * 64))
    assert code(reply) == "checksum_differs"
    assert reply.error.facts["name"] == "install.iso"
    assert left(agent.isos) == []
    server.content = bytes(1 << 20)
    assert code(panel.call(fetch(server))) == "not_an_iso"
    assert left(agent.isos) == []


def test_an_image_that_names_another_file_is_refused_by_the_node_too(agent, panel, server, tmp_path):
    server.content = image_over_shadow(tmp_path)
    assert code(panel.call(fetch(server, kind="image", name="evil.qcow2"))) == "image_has_backing"
    assert left(agent.images) == []


def test_nothing_is_sent_to_a_panel_with_another_certificate(agent, panel, server, tmp_path):
    (tmp_path / "other").mkdir()
    trust(agent, Authority(tmp_path / "other"))
    assert code(panel.call(fetch(server))) == "wrong_panel"
    assert server.ranges == []


def test_a_token_that_is_refused_fails_for_good_and_its_part_goes_with_the_undo(agent, panel, server):
    assert code(panel.call(fetch(server, token="another"))) == "file_refused"
    assert left(agent.isos) == [f"{FILE}.part"]
    panel.done(m.FileDelete(**named()))
    assert left(agent.isos) == []


def test_what_never_fits_and_what_looks_like_a_volume_are_refused(agent, panel, server):
    assert code(panel.call(fetch(server, size_bytes=1 << 60))) == "no_room"
    assert code(panel.call(fetch(server, kind="image", name=f"{DISK}.qcow2"))) == "file_name_reserved"
    panel.done(m.FileDelete(**named()))


def test_an_image_stays_while_a_disk_or_a_domain_uses_it(agent, panel, server, tmp_path):
    path = tmp_path / "image"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"], check=True)
    server.content = path.read_bytes()
    about = named(kind="image", name="debian.qcow2")
    panel.done(fetch(server, **about))
    backing = {"backing": str(agent.images / "debian.qcow2"), "backing_format": "qcow2"}
    disk = DiskSpec(id=DISK, pool=agent.pool, format="qcow2", size_bytes=1 << 20, **backing)
    panel.done(m.DiskCreate(disk=disk))
    assert panel.done(m.FileLook(**about))["used_by"] == [f"{DISK}.qcow2"]
    reply = panel.call(m.FileDelete(**about))
    assert code(reply) == "file_in_use"
    assert DISK in reply.error.cause
    panel.done(m.DiskDelete(id=DISK, pool=agent.pool, format="qcow2"))
    panel.done(m.FileDelete(**about))


def test_an_iso_stays_while_a_domain_names_it(agent, panel, server):
    panel.done(fetch(server))
    disk = DomainDisk(id=DISK, device="cdrom", bus="ide", iso="install.iso")
    spec = DomainSpec(id=VM, uuid=UUID, name="web", vcpus=1, memory_bytes=1 << 27, disks=(disk,))
    panel.done(m.DomainDefine(domain=spec))
    assert code(panel.call(m.FileDelete(**named()))) == "file_in_use"
    panel.done(m.DomainUndefine(vm=VM, uuid=UUID))
    panel.done(m.FileDelete(**named()))


@contextmanager
def a_place(folder, redis_server, tmp_path):
    """A node of its own, with its panel and its server."""
    panel = Panel(redis_server.port)
    with a_node(folder, redis_server, panel) as agent:
        authority = Authority(tmp_path)
        trust(agent, authority)
        server = Server(authority)
        agent.up()
        yield agent, panel, server
        server.http.shutdown()
        server.http.server_close()


@pytest.mark.parametrize("point", ["file.part-made", "file.piece", "file.filled", "file.linked"])
def test_an_agent_that_dies_in_the_middle_goes_on_with_what_there_is(point, folder, redis_server, tmp_path):
    with a_place(folder, redis_server, tmp_path) as (agent, panel, server):
        agent.arm(point)
        message = fetch(server)
        number = panel.number(message)
        panel.send(message, number)
        agent.await_death()
        agent.up()
        panel.send(message, number)
        assert panel.reply(message, number).outcome == "done"
        assert (agent.isos / "install.iso").read_bytes() == ISO
        assert left(agent.isos) == ["install.iso"]


def test_a_cancel_stops_it_while_the_panel_is_away_and_the_undo_removes_the_part(folder, redis_server, tmp_path):
    with a_place(folder, redis_server, tmp_path) as (agent, panel, server):
        server.is_down = True
        message = fetch(server)
        number = panel.number(message)
        panel.send(message, number)
        panel.cancel(message, number)
        assert panel.reply(message, number).outcome == "cancelled"
        panel.done(m.FileDelete(**named()))
        assert left(agent.isos) == []


# --- to the panel ----------------------------------------------------------------------------------------------


def send(server, content=ISO, **changes):
    about = {"url": server.url, "token": TOKEN, "size_bytes": len(content)}
    checksum = "sha256:" + hashlib.sha256(content).hexdigest()
    return m.FileSend(**{**named(), **about, "checksum": checksum, **changes})


def test_a_file_is_given_to_the_panel_from_where_its_part_ends(agent, panel, server):
    panel.done(fetch(server))
    panel.done(send(server))
    assert server.received == ISO
    assert server.puts == [(0, 0), (0, len(ISO))]
    server.received, server.puts = ISO[: 1 << 20], []
    panel.done(send(server))
    assert server.received == ISO
    assert server.puts == [(0, 0), (1 << 20, len(ISO) - (1 << 20))]


def test_a_large_file_is_given_in_chunks_and_a_panel_that_is_away_is_asked_again(agent, panel, server):
    server.content = ISO + bytes(SENT_AT_ONCE_BYTES)
    panel.done(fetch(server))
    server.put_refusals = [(503, {}), (409, {"code": "upload_busy"})]
    panel.done(send(server, server.content))
    assert server.received == server.content
    assert [count for _offset, count in server.puts[-2:]] == [SENT_AT_ONCE_BYTES, len(ISO)]


def test_what_the_panel_refuses_fails_for_good_with_its_reason(agent, panel, server):
    panel.done(fetch(server))
    server.put_refusals = [(507, {"code": "no_room_on_panel", "facts": {"free": 1, "needed": 2}})]
    reply = panel.call(send(server))
    assert (code(reply), reply.error.facts) == ("no_room_on_panel", {"free": 1, "needed": 2})
    assert code(panel.call(send(server, token="another"))) == "file_not_taken"


def test_only_a_whole_file_of_ours_is_given(agent, panel, server):
    assert code(panel.call(send(server))) == "file_absent"
    final = agent.isos / "install.iso"
    final.write_bytes(ISO)
    assert code(panel.call(send(server))) == "exists_not_ours"
    os.setxattr(final, "user.ulei.file", FILE.encode())
    assert code(panel.call(send(server, size_bytes=1))) == "exists_other_size"
    assert server.puts == []


# --- images of disks -------------------------------------------------------------------------------------------


@pytest.fixture(params=["qcow2", "raw"])
def disk(request, agent, panel):
    """With a word at its begin."""
    spec = DiskSpec(id=DISK, pool=agent.pool, format=request.param, size_bytes=4 << 20)
    panel.done(m.DiskCreate(disk=spec))
    argv = ["qemu-io", "-f", request.param, "-c", "write -P 0x5a 0 64k", f"{agent.images}/{DISK}.{request.param}"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return VolumeSpec(id=DISK, pool=agent.pool, format=request.param)


def make(disk, **changes):
    return m.FileMake(**{**named(kind="image", name="golden.qcow2"), "source": disk, **changes})


def test_an_image_of_a_disk_stands_by_itself_and_has_its_content(agent, panel, disk):
    result = panel.done(make(disk))
    final = agent.images / "golden.qcow2"
    assert result["virtual_size_bytes"] == 4 << 20
    assert (result["format"], result["size_bytes"]) == ("qcow2", final.stat().st_size)
    assert result["checksum"] == "sha256:" + hashlib.sha256(final.read_bytes()).hexdigest()
    source = f"{agent.images}/{DISK}.{disk.format}"
    subprocess.run(["qemu-img", "compare", "-f", disk.format, "-F", "qcow2", source, str(final)], check=True)
    assert os.getxattr(final, "user.ulei.file").decode() == FILE
    assert panel.done(make(disk)) == result
    panel.done(m.DiskDelete(id=DISK, pool=agent.pool, format=disk.format))
    panel.done(m.FileDelete(**named(kind="image", name="golden.qcow2")))
    assert left(agent.images) == []


def test_no_image_is_made_of_a_disk_that_is_not_there_or_in_a_foreign_files_place(agent, panel, disk):
    absent = disk.model_copy(update={"id": "e" * 13})
    assert code(panel.call(make(absent))) == "disk_absent"
    final = agent.images / "golden.qcow2"
    final.write_text("somebody's")
    assert code(panel.call(make(disk))) == "exists_not_ours"
    assert final.read_text() == "somebody's"
    assert left(agent.images) == sorted([f"{DISK}.{disk.format}", "golden.qcow2"])


def test_without_libguestfs_or_without_a_linux_in_it_no_image_is_generalised_and_nothing_is_left(agent, panel, disk):
    lacks = generalise.missing()
    reply = panel.call(make(disk, generalise=True))
    assert code(reply) == ("no_guestfs" if lacks else "guest_unsupported"), reply.error
    assert left(agent.images) == [f"{DISK}.{disk.format}"]
    panel.done(m.NodeInspect())
    (check,) = (each for each in panel.newest(m.Inventory).checks if each.code == "guestfs")
    assert (check.level, check.facts) == ("warning" if lacks else "ok", {"lacks": lacks})


LINUX = {
    "etc/os-release": "ID=debian\nVERSION_ID=12\nNAME=Debian\n",
    "etc/debian_version": "12.1\n",
    "etc/fstab": "LABEL=root / ext4 defaults 0 1\n",
    "etc/hostname": "web\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/ssh/ssh_host_rsa_key": "secret",
    "etc/ssh/ssh_host_rsa_key.pub": "public",
    "etc/ssh/sshd_config": "Port 22\n",
    "etc/udev/rules.d/70-persistent-net.rules": "the NIC of this machine",
    "var/lib/cloud/instances/i-1/user-data.txt": "what was done",
    "var/lib/dbus/machine-id": "0123456789abcdef0123456789abcdef\n",
    "bin/ls": "",
    "usr/bin/env": "",
}
AFTER = {
    **{path: text for path, text in LINUX.items() if "ssh_host" not in path and "cloud/" not in path},
    "etc/machine-id": "",
    "etc/udev/rules.d/70-persistent-net.rules": "",
}
del AFTER["var/lib/dbus/machine-id"]


@pytest.mark.skipif(bool(generalise.missing()), reason="this machine has no libguestfs")
def test_an_image_that_is_generalised_keeps_all_but_what_one_machine_may_have(agent, panel, tmp_path):
    for path, text in LINUX.items():
        (tmp_path / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / path).write_text(text)
    spec = DiskSpec(id=DISK, pool=agent.pool, format="raw", size_bytes=64 << 20)
    panel.done(m.DiskCreate(disk=spec))
    volume = agent.images / f"{DISK}.raw"
    mkfs = ["/sbin/mkfs.ext4", "-q", "-L", "root", "-d", str(tmp_path / "root"), str(volume)]
    subprocess.run(mkfs, check=True)
    before = volume.read_bytes()
    result = panel.done(make(VolumeSpec(id=DISK, pool=agent.pool, format="raw"), generalise=True))
    final = agent.images / "golden.qcow2"
    assert result["checksum"] == "sha256:" + hashlib.sha256(final.read_bytes()).hexdigest()
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(final), str(tmp_path / "after.raw")], check=True)
    dump = ["/sbin/debugfs", "-R", f"rdump / {tmp_path / 'after'}", str(tmp_path / "after.raw")]
    (tmp_path / "after").mkdir()
    subprocess.run(dump, check=True, capture_output=True)
    found = {path.relative_to(tmp_path / "after"): path for path in (tmp_path / "after").rglob("*") if path.is_file()}
    assert {str(name): path.read_text() for name, path in found.items()} == AFTER
    assert volume.read_bytes() == before
    panel.done(m.DiskDelete(id=DISK, pool=agent.pool, format="raw"))


@pytest.mark.parametrize("point", ["file.part-made", "file.copied", "file.filled", "file.linked"])
def test_an_agent_that_dies_while_it_makes_an_image_makes_it_anew(point, folder, redis_server):
    panel = Panel(redis_server.port)
    with a_node(folder, redis_server, panel) as agent:
        agent.up()
        spec = DiskSpec(id=DISK, pool=agent.pool, format="qcow2", size_bytes=4 << 20)
        panel.done(m.DiskCreate(disk=spec))
        message = make(VolumeSpec(id=DISK, pool=agent.pool, format="qcow2"))
        agent.arm(point)
        number = panel.number(message)
        panel.send(message, number)
        agent.await_death()
        agent.up()
        panel.send(message, number)
        assert panel.reply(message, number).outcome == "done"
        assert left(agent.images) == sorted([f"{DISK}.qcow2", "golden.qcow2"])
