"""Files from the web: whole or not at all, from nowhere but where the panel allows, gone on with after a cut.

The web here is a small HTTP server on this machine's loopback, which no node takes anything from unless it is allowed.
"""

import hashlib
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nodes.contract import messages as m
from tests.agent.conftest import a_node
from tests.agent.folders import image_over_shadow, left
from tests.agent.panel import Panel, code

FILE = "f" * 13
ISO = bytes(32769) + b"CD001" + os.urandom(3 << 20)
CHECKSUM = "sha256:" + hashlib.sha256(ISO).hexdigest()
LOOPBACK = ("127.0.0.0/8",)
LONG_AGO = {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}


class Web:
    """Gives one content at every path but ``/to/<URL>``, which leads there."""

    def __init__(self):
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

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def base(self):
        return f"http://127.0.0.1:{self.http.server_port}"

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
