"""The listener for machines that want to join: one address, and words for each way in which it can go wrong."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cluster.models import AuditEvent, Node
from tests.panel.client import Api
from web.enrolment import ATTEMPTS_PER_MINUTE, MAX_BODY_BYTES, PATH, Enrolment, Limit

pytestmark = pytest.mark.django_db(transaction=True)
Ask = Callable[..., Any]


@pytest.fixture
def ask() -> Ask:
    """``await ask(body)`` -> status, JSON, headers; each test has a listener of its own."""
    app = Enrolment()

    async def ask(body: Any, path: str = PATH, method: str = "POST", client: str = "10.99.0.11") -> Any:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        scope = {"type": "http", "path": path, "method": method, "headers": [], "client": (client, 1)}
        communicator = ApplicationCommunicator(app, scope)
        await communicator.send_input({"type": "http.request", "body": raw[:10], "more_body": True})
        await communicator.send_input({"type": "http.request", "body": raw[10:]})
        start = await communicator.receive_output()
        answer = json.loads((await communicator.receive_output())["body"])
        return start["status"], answer, dict(start["headers"])

    return ask


@pytest.fixture
def token(authority: None, redis_socket: Any, people: Any) -> str:
    """From the command that the panel shows for a new node."""
    joined = Api(people["fabric"].token).post("nodes/", {"name": "n1", "address": "10.99.0.11"}).json()
    assert joined["join"]["token"] in joined["join"]["command"]
    return str(joined["join"]["token"])


@pytest.fixture
def rack(authority: None, redis_socket: Any, people: Any) -> list[str]:
    """Tokens of more nodes than an address may try in vain."""
    fabric = Api(people["fabric"].token)
    bodies = [{"name": f"n{n}", "address": f"10.99.0.{n}"} for n in range(11, 12 + ATTEMPTS_PER_MINUTE)]
    return [fabric.post("nodes/", body).json()["join"]["token"] for body in bodies]


def request(token: str, **changes: Any) -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n1")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return {
        "token": token,
        "certificate_request_pem": csr.public_bytes(serialization.Encoding.PEM).decode(),
        "redis_password_sha256": hashlib.sha256(b"secret").hexdigest(),
        "version": "1",
        "hostname": "n1",
        "host_uuid": "9f2c4c1e-0000-4000-8000-000000000001",
        **changes,
    }


async def test_a_machine_joins_once_with_its_token(ask: Ask, token: str) -> None:
    status, answer, _ = await ask(request(token))
    assert status == 200
    assert answer["name"] == "n1"
    assert answer["certificate_pem"].startswith("-----BEGIN CERTIFICATE")
    node = await Node.objects.aget(name="n1")
    assert answer["node"] == node.pk
    assert node.joined
    status, answer, _ = await ask(request(token))
    assert (status, answer["code"]) == (422, "token_unknown")
    assert answer.keys() == {"code", "cause", "hint"}
    outcomes = [event.outcome async for event in AuditEvent.objects.filter(action="node.enrol").order_by("pk")]
    assert outcomes == ["done", "refused"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"token": 1}', b'{"token": "' + b"x" * 100 + b'"}'],
)
async def test_a_malformed_request_is_refused_in_words(ask: Ask, body: bytes) -> None:
    status, answer, _ = await ask(body)
    assert (status, answer["code"]) == (400, "bad_request")
    assert answer["cause"]


async def test_characters_that_cannot_be_stored_are_refused(ask: Ask, token: str) -> None:
    assert (await ask(request(token, hostname="a\0b")))[0] == 400
    assert (await ask(request(token, certificate_request_pem="no request")))[0] in (400, 422)
    assert (await ask(request(token)))[0] == 200


@pytest.mark.parametrize(
    "change",
    [
        {"redis_password_sha256": ""},
        {"redis_password_sha256": "no digest"},
        {"redis_password_sha256": "AB" * 32},
        {"redis_password_sha256": "0" * 64 + "\n"},
        {"host_uuid": "x" * 37},
        {"version": "x" * 33},
        {"hostname": "x" * 256},
        {"hostname": "n1\nnode n9 enrolled"},
    ],
)
async def test_what_redis_or_a_row_could_not_take_is_refused_and_the_token_lives(
    ask: Ask, token: str, change: dict[str, str]
) -> None:
    """The conductor gives the digest to Redis: one that Redis refuses would stop it for every node."""
    assert (await ask(request(token, **change)))[0] == 400
    assert (await ask(request(token)))[0] == 200


async def test_there_is_nothing_else_on_this_port(ask: Ask) -> None:
    assert (await ask({}, path="/"))[0] == 404
    assert (await ask({}, path="/api/v1/vms/"))[0] == 404
    status, _, headers = await ask({}, method="GET")
    assert (status, headers[b"allow"]) == (405, b"POST")
    assert (await ask(b"x" * (MAX_BODY_BYTES + 1)))[0] == 413


async def test_one_address_cannot_try_for_ever_and_harms_no_other(ask: Ask) -> None:
    for _ in range(ATTEMPTS_PER_MINUTE):
        assert (await ask(b"{"))[0] == 400
    status, answer, headers = await ask(b"{")
    assert (status, answer["code"]) == (429, "too_many_requests")
    assert int(headers[b"retry-after"]) > 0
    assert (await ask(b"{", client="10.99.0.12"))[0] == 400


async def test_a_whole_rack_may_join_from_one_address(ask: Ask, rack: list[str]) -> None:
    for number, token in enumerate(rack):
        assert (await ask(request(token, host_uuid=f"{number:08}-0000-4000-8000-000000000001")))[0] == 200


def test_a_minute_later_it_may_try_again() -> None:
    now = [0.0]
    limit = Limit(2, clock=lambda: now[0])
    assert [limit.wait_s("a") for _ in range(3)] == [0, 0, 61]
    now[0] = 61
    assert limit.wait_s("a") == 0
