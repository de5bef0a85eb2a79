"""Make this machine a node: trust the panel by its CA's fingerprint, get a certificate, write the configuration.

Nothing is sent before the fingerprint of the server's certificate has been compared, on that same connection. The
node's private key and its Redis password are made here and never leave: only a signing request and a hash do.
"""

import hashlib
import http.client
import json
import os
import pwd
import re
import secrets
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from nodes import __version__, peers
from nodes.config import Paths, config_file
from nodes.contract.errors import NodeError
from nodes.contract.messages import EnrolAnswer, EnrolRequest
from nodes.facts import firmware_uuid
from nodes.facts import host_uuid as host_uuid_in
from nodes.files import write_atomically
from nodes.hypervisor import Hypervisor
from nodes.log import Log

log = Log("ulei.enrol")

PATH = "/api/v1/enrol/"
TIMEOUT_S = 20.0
PUBLIC, SECRET = 0o644, 0o600
QEMU_USERS = ("libvirt-qemu", "qemu")


def join(
    paths: Paths,
    panel: str,
    token: str,
    ca_fingerprint: str,
    *,
    host_uuid: str | None = None,
    configuration: Path | None = None,
) -> EnrolAnswer:
    """Also for a machine that has joined before: everything is replaced.

    :param host_uuid: None: libvirt's.
    :param configuration: the file that makes the machine a node; None: where the agent looks for it.

    Raises a certain NodeError with a hint: ``bad_fingerprint``, ``panel_unreachable``, ``wrong_panel``,
    ``token_refused``, ``enrol_refused``, ``bad_certificate``.
    """
    fingerprint = _fingerprint(ca_fingerprint)
    key = ec.generate_private_key(ec.SECP256R1())
    password = secrets.token_hex(32)
    request = EnrolRequest(
        token=token,
        certificate_request_pem=_signing_request(key),
        redis_password_sha256=hashlib.sha256(password.encode()).hexdigest(),
        version=__version__,
        hostname=socket.gethostname(),
        host_uuid=host_uuid or _host_uuid(paths),
    )
    answer = _post(panel, fingerprint, request)
    _check(answer, key, fingerprint)
    _lay_out(paths, answer, key)
    write_atomically(paths.redis_password_file, password, mode=SECRET)
    peers.learn(paths.state_dir, answer.peers)
    # Last: with this file the machine is a node.
    write_atomically(configuration or config_file(), _configuration(answer), mode=PUBLIC)
    return answer


def _fingerprint(text: str) -> str:
    match = re.fullmatch(r"(?:sha256:)?([0-9a-f]{64})", text.lower().replace("-", ""))
    if match is None:
        raise NodeError("bad_fingerprint", f"{text!r} is not sha256: and 64 hexadecimal digits", "Copy it once more.")
    return match[1]


def _signing_request(key: ec.EllipticCurvePrivateKey) -> str:
    # The panel decides on the name; what stands here is only a note.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, socket.gethostname()[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _host_uuid(paths: Paths) -> str:
    hypervisor = Hypervisor(paths.libvirt_uri)
    try:
        hypervisor.open_for_queries()
        return host_uuid_in(hypervisor.capabilities())
    except NodeError as error:
        log.warning("libvirt cannot be asked for the host's uuid", cause=error.info.cause)
        return firmware_uuid()


# --- the request ------------------------------------------------------------------------------------------


def _post(panel: str, fingerprint: str, request: EnrolRequest) -> EnrolAnswer:
    address = urlsplit(panel)
    if address.scheme != "https" or not address.hostname:
        raise NodeError("panel_unreachable", f"{panel!r} is not https://HOST:PORT", "Copy the command once more.")
    host, port = address.hostname, address.port or 8101
    try:
        with trusted(host, port, fingerprint) as connection:
            client = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
            client.sock = connection
            client.request("POST", PATH, request.model_dump_json(), {"Content-Type": "application/json"})
            response = client.getresponse()
            body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NodeError(
            "panel_unreachable",
            f"{host}:{port}: {error}",
            "Is the panel running, and is that port open from this machine?",
            retryable=True,
        ) from None
    if response.status not in (200, 201):
        raise _refusal(response.status, body)
    try:
        return EnrolAnswer.model_validate_json(body)
    except ValidationError as error:
        raise NodeError("enrol_refused", f"the panel's answer cannot be read: {error}", "Update ulei-node.") from None


def trusted(host: str, port: int, fingerprint: str) -> ssl.SSLSocket:
    """A TLS connection to whoever has that certificate. Raises ``wrong_panel``; sends nothing before that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The fingerprint is the whole of the trust: there is no other CA yet, and the name may be an address.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = context.wrap_socket(socket.create_connection((host, port), TIMEOUT_S))
    found = hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()
    if not secrets.compare_digest(found, fingerprint):
        connection.close()
        raise NodeError(
            "wrong_panel",
            f"{host}:{port} shows the certificate sha256:{found}, not sha256:{fingerprint}; nothing was sent to it",
            "Copy the command once more. If it was right, somebody stands between this machine and the panel.",
        )
    return connection


def _refusal(status: int, body: bytes) -> NodeError:
    """What the panel said, in its own words where they can be read: ``{"code", "cause", "hint"}``."""
    try:
        problem = dict(json.loads(body))
    except (ValueError, TypeError):
        problem = {}
    cause = str(problem.get("cause") or body[:200].decode(errors="replace"))
    hint = str(problem.get("hint") or "")
    if problem.get("code") == "token_unknown":
        return NodeError("token_refused", cause, hint or "Let the panel make a new command.")
    return NodeError("enrol_refused", f"status {status}: {cause}", hint or "Add the node in the panel once more.")


def _check(answer: EnrolAnswer, key: ec.EllipticCurvePrivateKey, fingerprint: str) -> None:
    """What came back is for our key, and by the CA that was promised."""
    try:
        ca = x509.load_pem_x509_certificate(answer.ca_pem.encode())
        certificate = x509.load_pem_x509_certificate(answer.certificate_pem.encode())
        certificate.verify_directly_issued_by(ca)
    except Exception as error:  # noqa: BLE001 - cryptography raises several families here
        raise NodeError("bad_certificate", f"the panel's certificates cannot be used: {error}") from None
    if ca.fingerprint(hashes.SHA256()).hex() != fingerprint:
        raise NodeError("bad_certificate", "the CA in the panel's answer is not the one of the fingerprint")
    if certificate.public_key() != key.public_key():
        raise NodeError("bad_certificate", "the certificate in the panel's answer is not for this node's key")


# --- what is written --------------------------------------------------------------------------------------


def _lay_out(paths: Paths, answer: EnrolAnswer, key: ec.EllipticCurvePrivateKey) -> None:
    """The same certificate where each program looks for it. Sources: libvirt.org/tlscerts.html, qemu.conf."""
    pki = paths.pki_dir
    ca, certificate = answer.ca_pem, answer.certificate_pem
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for role in ("client", "server"):
        write_atomically(pki / "libvirt" / "private" / f"{role}key.pem", key_pem, mode=SECRET)
        write_atomically(pki / "libvirt" / f"{role}cert.pem", certificate, mode=PUBLIC)
        write_atomically(pki / "qemu" / f"{role}-key.pem", key_pem, mode=SECRET)
        write_atomically(pki / "qemu" / f"{role}-cert.pem", certificate, mode=PUBLIC)
    _give_to_qemu(pki / "qemu" / f"{role}-key.pem" for role in ("client", "server"))
    write_atomically(pki / "qemu" / "ca-cert.pem", ca, mode=PUBLIC)
    write_atomically(paths.key_file, key_pem, mode=SECRET)
    write_atomically(paths.certificate_file, certificate, mode=PUBLIC)
    write_atomically(paths.ca_file, ca, mode=PUBLIC)


def _give_to_qemu(keys: Iterable[Path]) -> None:
    """A guest's QEMU reads its key as its own user."""
    for name in QEMU_USERS:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        for key in keys:
            os.chown(key, user.pw_uid, user.pw_gid)
        return


def _configuration(answer: EnrolAnswer) -> str:
    """JSON's strings and numbers are TOML's as well."""
    lines = [
        "# Written by ulei-node join.",
        f"id = {json.dumps(answer.node)}",
        f"name = {json.dumps(answer.name)}",
        f"redis_host = {json.dumps(answer.redis_host)}",
        f"redis_port = {answer.redis_port}",
    ]
    return "\n".join(lines) + "\n"
