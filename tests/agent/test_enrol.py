"""Joining: nothing is sent to a stranger, and what comes back is checked. The panel here is a small TLS server."""

import hashlib
import json
import ssl
import stat
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from nodes import config, enrol, peers
from nodes.contract.errors import NodeError
from nodes.contract.messages import EnrolRequest
from tests.agent.authority import PEM, Authority


class Server:
    def __init__(self, authority):
        self.authority = authority
        self.received = []
        self.status = 201
        self.change = lambda answer: answer
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = EnrolRequest.model_validate_json(self.rfile.read(int(self.headers["Content-Length"])))
                server.received.append(request)
                refusal = {"code": "token_unknown", "detail": "this token is unknown, used or expired"}
                body = server.change(authority.answer(request)) if server.status == 201 else refusal
                self.send_response(server.status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *arguments):
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.file)
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"https://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def server(authority):
    server = Server(authority)
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("ULEI_NODE_CONFIG", str(tmp_path / "node.toml"))
    monkeypatch.setattr(peers, "HOSTS", tmp_path / "hosts")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n10.0.0.2 n1\n")
    return config.Paths(
        state_dir=tmp_path / "state", pki_dir=tmp_path / "pki", libvirt_uri="test:///default", run_dir=tmp_path
    )


def refused(paths, server, authority):
    with pytest.raises(NodeError) as error:
        enrol.join(paths, server.url, "token", authority.fingerprint)
    assert error.value.info.certain
    assert not config.config_file().exists()
    return error.value.info.code


def test_a_machine_that_joins_has_all_that_its_agent_needs(paths, server, authority):
    enrol.join(paths, server.url, "the-token", authority.fingerprint)
    loaded = config.load()
    assert (loaded.id, loaded.name, loaded.redis_host, loaded.redis_port) == ("a" * 13, "n1", "10.0.0.1", 6400)
    assert peers.known(paths.state_dir) == {"n1": "10.0.0.2", "n2": "10.0.0.3"}
    (request,) = server.received
    assert request.token == "the-token"
    password = paths.redis_password_file.read_bytes()
    assert request.redis_password_sha256 == hashlib.sha256(password).hexdigest()


def test_keys_are_the_owners_alone_and_never_leave(paths, server, authority):
    enrol.join(paths, server.url, "token", authority.fingerprint)
    secret = [*paths.pki_dir.rglob("*key*.pem"), paths.redis_password_file]
    assert len(secret) == 6
    assert {stat.S_IMODE(file.stat().st_mode) for file in secret} == {0o600}
    said = server.received[0].model_dump_json()
    assert "PRIVATE KEY" not in said
    assert paths.redis_password_file.read_text() not in said


def test_the_certificate_lies_where_libvirt_and_qemu_look(paths, server, authority):
    enrol.join(paths, server.url, "token", authority.fingerprint)
    found = sorted(str(file.relative_to(paths.pki_dir)) for file in paths.pki_dir.rglob("*.pem"))
    assert found == [
        "CA/cacert.pem",
        "libvirt/clientcert.pem",
        "libvirt/private/clientkey.pem",
        "libvirt/private/serverkey.pem",
        "libvirt/servercert.pem",
        "qemu/ca-cert.pem",
        "qemu/client-cert.pem",
        "qemu/client-key.pem",
        "qemu/server-cert.pem",
        "qemu/server-key.pem",
        "ulei/cert.pem",
        "ulei/key.pem",
    ]


def test_peers_that_nobody_named_are_named_and_a_rejoin_names_them_once(paths, server, authority):
    for _ in range(2):
        enrol.join(paths, server.url, "token", authority.fingerprint)
    assert peers.HOSTS.read_text().splitlines() == [
        "127.0.0.1 localhost",
        "10.0.0.2 n1",
        peers.HOSTS_BEGIN,
        "10.0.0.3\tn2",
        peers.HOSTS_END,
    ]


def test_a_rejoin_has_a_new_key_and_password(paths, server, authority):
    enrol.join(paths, server.url, "token", authority.fingerprint)
    before = paths.key_file.read_bytes(), paths.redis_password_file.read_bytes()
    enrol.join(paths, server.url, "token", authority.fingerprint)
    after = paths.key_file.read_bytes(), paths.redis_password_file.read_bytes()
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_nothing_is_sent_to_a_server_with_another_certificate(paths, server, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    assert refused(paths, server, Authority(other)) == "wrong_panel"
    assert server.received == []


def test_a_used_token_is_refused_with_a_way_out(paths, server, authority):
    server.status = 403
    with pytest.raises(NodeError, match="unknown, used or expired") as error:
        enrol.join(paths, server.url, "token", authority.fingerprint)
    assert error.value.info.code == "token_refused"
    assert "new command" in error.value.info.hint


def test_a_panel_that_is_away_is_said_to_be_away(paths, server, authority):
    server.http.shutdown()
    server.http.server_close()
    assert refused(paths, server, authority) == "panel_unreachable"


def test_a_ca_of_another_fingerprint_in_the_answer_is_refused(paths, server, authority, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    server.change = lambda answer: {**answer, "ca_pem": Authority(other).pem}
    assert refused(paths, server, authority) == "bad_certificate"


def test_a_certificate_for_another_key_is_refused(paths, server, authority):
    key = ec.generate_private_key(ec.SECP256R1())
    other = authority.build(authority.certificate.subject, key.public_key()).public_bytes(PEM).decode()
    server.change = lambda answer: {**answer, "certificate_pem": other}
    assert refused(paths, server, authority) == "bad_certificate"


@pytest.mark.parametrize("fingerprint", ["", "sha256:12", "sha256:" + "g" * 64, "md5:" + "a" * 64])
def test_what_is_no_fingerprint_is_refused(fingerprint, paths, server):
    with pytest.raises(NodeError) as error:
        enrol.join(paths, server.url, "token", fingerprint)
    assert error.value.info.code == "bad_fingerprint"


@pytest.mark.parametrize("panel", ["http://127.0.0.1:1", "panel:8101", ""])
def test_an_address_without_tls_is_refused(panel, paths, authority):
    with pytest.raises(NodeError) as error:
        enrol.join(paths, panel, "token", authority.fingerprint)
    assert error.value.info.code == "panel_unreachable"


def test_a_machine_that_has_not_joined_says_so(paths):
    with pytest.raises(NodeError) as error:
        config.load()
    assert error.value.info.code == "not_joined"
