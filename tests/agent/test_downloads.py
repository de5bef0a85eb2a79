"""Files from the web: whole or not at all, from nowhere but where the panel allows, gone on with after a cut.

The web here is a small HTTP server on this machine's loopback, which no node takes anything from unless it is allowed.
"""

import hashlib
import os
import socket
import ssl
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nodes.contract import messages as m
from nodes.download import TIMEOUT_S
from tests.agent.authority import Authority
from tests.agent.conftest import a_folder, a_node, a_redis
from tests.agent.folders import image_over_shadow, left
from tests.agent.panel import Panel, code

FILE = "f" * 13
ISO = bytes(32769) + b"CD001" + os.urandom(3 << 20)
CHECKSUM = "sha256:" + hashlib.sha256(ISO).hexdigest()
LOOPBACK = ("127.0.0.0/8",)
LONG_AGO = {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}


class Web:
    """Gives one content at every path but ``/to/<URL>``, which leads there."""

    def __init__(self, tls=None):
        self.content = ISO
        self.validator = {"ETag": '"one"'}
        self.breaks_after = []
        """For each request in turn: how many bytes it sends before it breaks off; empty: all."""
        self.status = 200
        self.says_length = True
        self.extra = {}
        self.asked = []
        """(path, Range, If-Range) of each request."""
        self.holds = threading.Event()
        """Cleared: a request waits in the middle of its answer."""
        self.holds.set()
        self.half_sent = threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                web.asked.append((self.path, self.headers["Range"], self.headers["If-Range"]))
                if self.path.startswith("/to/"):
                    self.send_response(302)
                    self.send_header("Location", self.path.removeprefix("/to/"))
                    return self.end_headers()
                if web.status != 200:
                    return self.send_error(web.status)
                offset, whole = 0, len(web.content)
                same = self.headers["If-Range"] in web.validator.values()
                if self.headers["Range"] and same:
                    offset = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {offset}-{whole - 1}/{whole}")
                else:
                    self.send_response(200)
                for name, value in (web.validator | web.extra).items():
                    self.send_header(name, value)
                if web.says_length:
                    self.send_header("Content-Length", str(whole - offset))
                self.end_headers()
                until = offset + web.breaks_after.pop(0) if web.breaks_after else whole
                middle = (offset + until) // 2
                self.wfile.write(web.content[offset:middle])
                web.half_sent.set()
                web.holds.wait(30)
                self.wfile.write(web.content[middle:until])
                return None

            def setup(self):
                super().setup()
                if tls:
                    self.connection.do_handshake()

            def log_message(self, *arguments):
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):
                pass  # a client that did not like the certificate

        self.http = Server(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.http.server_port}"
        if tls:
            # Of each connection in its own thread, so that one client's handshake holds up nobody.
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
            self.base = f"https://localhost:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def stop(self):
        self.holds.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def web():
    web = Web()
    yield web
    web.stop()


@pytest.fixture
def agent(shared_agent):
    yield shared_agent
    shared_agent.empty()


@pytest.fixture
def panel(agent):
    return agent.panel


def named(**changes):
    return {"id": FILE, "kind": "iso", "name": "install.iso", **changes}


def download(web, **changes):
    about = {"url": web.base + "/install.iso", "most_bytes": 1 << 30, "networks": LOOPBACK}
    return m.FileDownload(**{**named(), **about, **changes})


def test_a_file_is_downloaded_marked_described_and_not_asked_for_again(agent, panel, web):
    about = {"size_bytes": len(ISO), "virtual_size_bytes": len(ISO), "format": "iso", "checksum": CHECKSUM}
    assert panel.done(download(web, checksum=CHECKSUM)) == about
    final = agent.isos / "install.iso"
    assert final.read_bytes() == ISO
    assert (os.getxattr(final, "user.ulei.file").decode(), os.listxattr(final)) == (FILE, ["user.ulei.file"])
    assert panel.done(download(web)) == about
    assert len(web.asked) == 1
    panel.done(m.FileDelete(**named()))
    assert left(agent.isos) == []


def test_nothing_comes_from_an_address_that_is_not_public_unless_it_is_allowed(agent, panel, web):
    for url in (web.base, web.base.replace("127.0.0.1", "localhost"), web.base.replace("127.0.0.1", "2130706433")):
        assert code(panel.call(download(web, url=url + "/a.iso", networks=()))) == "address_refused"
    assert code(panel.call(download(web, url="http://[::ffff:127.0.0.1]:1/a.iso", networks=()))) == "address_refused"
    assert code(panel.call(download(web, url="http://user:word@127.0.0.1/a.iso"))) == "url_unfit"
    assert web.asked == []


def test_each_redirect_is_looked_at_and_there_are_five_at_most(agent, panel, web):
    redirected = download(web, url=f"{web.base}/to/{web.base}/install.iso")
    assert panel.done(redirected)["checksum"] == CHECKSUM
    panel.done(m.FileDelete(**named()))
    inside = download(web, url=f"{web.base}/to/http://169.254.169.254/secret", networks=("127.0.0.1/32",))
    assert code(panel.call(inside)) == "address_refused"
    for elsewhere in ("file:///etc/shadow", "ftp://127.0.0.1/x", "http://user@127.0.0.1/x"):
        assert code(panel.call(download(web, url=f"{web.base}/to/{elsewhere}"))) == "url_unfit"
    web.asked.clear()
    again_and_again = web.base + "/to/" + "/to/" * 9 + "install.iso"
    assert code(panel.call(download(web, url=again_and_again))) == "download_refused"
    assert len(web.asked) == 6


@pytest.mark.parametrize("validator", [{"ETag": '"one"'}, LONG_AGO])
def test_a_connection_that_breaks_is_gone_on_with_where_the_server_knows_the_file(validator, agent, panel, web):
    web.validator = validator
    web.breaks_after = [1 << 20]
    panel.done(download(web))
    assert (agent.isos / "install.iso").read_bytes() == ISO
    assert [asked[1:] for asked in web.asked] == [(None, None), (f"bytes={1 << 20}-", *validator.values())]


@pytest.mark.parametrize("validator", [{}, {"ETag": 'W/"weak"'}])
def test_without_a_strong_validator_it_is_begun_anew(validator, agent, panel, web):
    web.validator = validator
    web.breaks_after = [1 << 20]
    panel.done(download(web))
    assert (agent.isos / "install.iso").read_bytes() == ISO
    assert [asked[1] for asked in web.asked] == [None, None]


def test_a_file_that_changed_in_between_comes_whole(agent, panel, web):
    web.breaks_after = [1 << 20]
    web.holds.clear()
    number = panel.number(download(web))
    panel.send(download(web), number)
    assert web.half_sent.wait(20)
    web.content, web.validator = ISO[::-1], {"ETag": '"two"'}
    web.content = bytes(32769) + b"CD001" + os.urandom(1 << 20)
    web.holds.set()
    assert panel.reply(download(web), number).outcome == "done"
    assert (agent.isos / "install.iso").read_bytes() == web.content


def test_a_wrong_checksum_and_a_wrong_content_leave_nothing(agent, panel, web):
    assert code(panel.call(download(web, checksum="sha256:" + "0" * 64))) == "checksum_differs"
    assert left(agent.isos) == []
    web.content = bytes(1 << 20)
    assert code(panel.call(download(web))) == "not_an_iso"
    assert left(agent.isos) == []


def test_an_image_that_names_another_file_is_refused(agent, panel, web, tmp_path):
    web.content = image_over_shadow(tmp_path)
    assert code(panel.call(download(web, kind="image", name="evil.qcow2"))) == "image_has_backing"
    assert left(agent.images) == []


def test_what_is_too_large_said_or_unsaid_is_refused(agent, panel, web):
    assert code(panel.call(download(web, most_bytes=1 << 20))) == "download_too_large"
    web.says_length = False
    assert code(panel.call(download(web, most_bytes=1 << 20, checksum=CHECKSUM))) == "download_too_large"


def test_an_end_that_may_be_a_cut_is_believed_only_with_a_checksum(agent, panel, web):
    web.says_length = False
    assert code(panel.call(download(web))) == "download_refused"
    assert panel.done(download(web, checksum=CHECKSUM))["size_bytes"] == len(ISO)


def test_what_the_server_refuses_or_packs_is_said(agent, panel, web):
    web.status = 404
    reply = panel.call(download(web))
    assert (code(reply), reply.error.facts) == ("download_refused", {"why": "status 404"})
    web.status, web.extra = 200, {"Content-Encoding": "gzip"}
    assert code(panel.call(download(web))) == "download_refused"


def test_a_full_disk_is_said(agent, panel, web):
    web.content = b""
    web.says_length = False
    web.extra = {"Content-Length": str(1 << 50)}
    assert code(panel.call(download(web, most_bytes=1 << 60))) == "no_room"


def test_a_foreign_file_of_the_wanted_name_survives(agent, panel, web):
    final = agent.isos / "install.iso"
    final.write_text("somebody's")
    assert code(panel.call(download(web))) == "exists_not_ours"
    assert final.read_text() == "somebody's"
    assert web.asked == []


@pytest.mark.parametrize("point", ["file.part-made", "file.piece", "file.filled", "file.linked"])
def test_an_agent_that_dies_in_the_middle_goes_on_with_what_there_is(point, folder, redis_server, web):
    panel = Panel(redis_server.port)
    with a_node(folder, redis_server, panel) as agent:
        agent.up()
        agent.arm(point)
        message = download(web)
        number = panel.number(message)
        panel.send(message, number)
        agent.await_death()
        agent.up()
        panel.send(message, number)
        assert panel.reply(message, number).outcome == "done"
        assert (agent.isos / "install.iso").read_bytes() == ISO
        assert left(agent.isos) == ["install.iso"]
        assert sum(asked[1] is None for asked in web.asked) == 1


def test_how_far_it_is_reaches_the_panel(agent, panel, web):
    message = download(web)
    number = panel.number(message)
    with held(web):
        panel.send(message, number)
        said = panel.next(m.Progress, lambda entry: entry.dispatch == number)
    assert said.percent < 100
    assert panel.reply(message, number).outcome == "done"
    panel.done(m.FileDelete(**named()))


@contextmanager
def held(web):
    web.holds.clear()
    yield
    web.holds.set()


def test_a_cancel_in_the_middle_leaves_nothing_behind_its_undo(agent, panel, web):
    message = download(web)
    number = panel.number(message)
    with held(web):
        panel.send(message, number)
        assert web.half_sent.wait(20)
        panel.cancel(message, number)
        assert panel.reply(message, number).outcome == "cancelled"
    panel.done(m.FileDelete(**named()))
    assert left(agent.isos) == []


# --- over TLS -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trusted():
    """The CA that the node of the next fixture trusts, as if its system did."""
    with a_folder() as folder:
        yield Authority(folder)


@pytest.fixture(scope="module")
def trusting(trusted):
    with a_folder() as folder, a_redis(folder) as server, a_node(folder, server, Panel(server.port)) as node:
        node.environment["SSL_CERT_FILE"] = str(trusted.file)
        node.up()
        yield node


@pytest.fixture
def secure(trusting):
    """Makes servers with TLS."""
    with ExitStack() as running:

        def serve(tls):
            web = Web(tls)
            running.callback(web.stop)
            return web

        yield serve
        trusting.empty()


def test_a_file_comes_over_tls_from_whom_the_node_trusts_and_after_a_cut_too(trusting, trusted, secure):
    web = secure(trusted.serves("localhost"))
    web.breaks_after = [1 << 20]
    assert trusting.panel.done(download(web))["checksum"] == CHECKSUM
    assert (trusting.isos / "install.iso").read_bytes() == ISO
    assert [asked[1] for asked in web.asked] == [None, f"bytes={1 << 20}-"]


def test_a_certificate_that_does_not_hold_is_refused_at_once_in_words(trusting, trusted, secure, tmp_path):
    cases = [
        ("certificate_expired", trusted.serves("localhost", from_days=-9, until_days=-1)),
        ("certificate_early", trusted.serves("localhost", from_days=1)),
        ("certificate_other_host", trusted.serves("elsewhere.test")),
        ("certificate_unknown", Authority(tmp_path, "stranger").serves("localhost")),
        ("certificate_unknown", Authority(tmp_path, "ca").serves("localhost")),  # it only calls itself as the other one
    ]
    for expected, tls in cases:
        web = secure(tls)
        reply = trusting.panel.call(download(web))
        assert (code(reply), reply.error.facts["host"]) == (expected, "localhost")
        assert (reply.error.certain, reply.error.retryable, web.asked) == (True, False, [])
    # By its number a host has no name that the certificate could hold.
    web = secure(trusted.serves("localhost"))
    by_number = download(web, url=web.base.replace("localhost", "127.0.0.1") + "/install.iso")
    assert code(trusting.panel.call(by_number)) == "certificate_other_host"
    trusting.panel.done(m.FileDelete(**named()))
    assert left(trusting.isos) == []


def test_a_server_that_does_not_speak_tls_is_refused_at_once(trusting, secure, web):
    assert code(trusting.panel.call(download(web, url=web.base.replace("http:", "https:") + "/a.iso"))) == "no_tls"
    without_certificate = secure(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert code(trusting.panel.call(download(without_certificate))) == "no_tls"
    trusting.panel.done(m.FileDelete(**named()))


def test_a_redirect_may_go_to_https_and_back_to_http_only_with_a_checksum(trusting, trusted, secure, web, tmp_path):
    tls = secure(trusted.serves("localhost"))
    there = download(web, url=f"{web.base}/to/{tls.base}/install.iso")
    assert trusting.panel.done(there)["checksum"] == CHECKSUM
    trusting.panel.done(m.FileDelete(**named()))
    back = f"{tls.base}/to/{web.base}/install.iso"
    web.asked.clear()
    reply = trusting.panel.call(download(tls, url=back))
    assert (code(reply), web.asked) == ("download_refused", [])
    assert trusting.panel.done(download(tls, url=back, checksum=CHECKSUM))["checksum"] == CHECKSUM
    trusting.panel.done(m.FileDelete(**named()))
    to_a_stranger = secure(Authority(tmp_path).serves("localhost"))
    reply = trusting.panel.call(download(web, url=f"{web.base}/to/{to_a_stranger.base}/install.iso"))
    assert code(reply) == "certificate_unknown"
    trusting.panel.done(m.FileDelete(**named()))


def test_a_cancel_ends_a_handshake_that_nobody_answers(trusting):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        message = m.FileDownload(
            **named(), url=f"https://localhost:{silent.getsockname()[1]}/a.iso", most_bytes=1 << 30, networks=LOOPBACK
        )
        number = trusting.panel.number(message)
        trusting.panel.send(message, number)
        with silent.accept()[0] as client:
            assert client.recv(1) == b"\x16"  # TLS: the client's hello
            began = time.monotonic()
            trusting.panel.cancel(message, number)
            assert trusting.panel.reply(message, number).outcome == "cancelled"
            assert time.monotonic() - began < TIMEOUT_S / 2
    trusting.panel.done(m.FileDelete(**named()))
