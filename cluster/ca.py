"""The cluster's certificate authority: the panel signs what nodes show each other and Redis.

Laid out as libvirt and QEMU want it: subject ``O=Ulei, CN=<node>``, SAN = name and address, server and client use
(https://libvirt.org/kbase/tlscerts.html).
"""

import functools
import hashlib
import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from django.conf import settings

from .refusals import Refusal, Refused

ORGANISATION = "Ulei"
CA_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=365)
# A node's clock may be behind the panel's.
BACKDATED = timedelta(hours=24)


@dataclass(frozen=True)
class Signed:
    pem: str
    sha256: str
    until: datetime


def _folder() -> Path:
    return Path(settings.INSTALLATION.ca_dir)


def certificate_pem() -> str:
    return (_folder() / "ca.pem").read_text()


@functools.cache
def fingerprint() -> str:
    """``sha256:<hex>`` of the CA's certificate (DER): a node checks it before it sends anything."""
    der = x509.load_pem_x509_certificate(certificate_pem().encode()).public_bytes(serialization.Encoding.DER)
    return "sha256:" + hashlib.sha256(der).hexdigest()


def init(redis_address: str) -> None:
    """Make the CA and Redis' certificate where they are missing. Harmless to repeat."""
    folder = _folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / "ca.pem").exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write_key(folder / "ca.key", key)
        # The enrolment listener shows this very certificate, so it is also a server's, for any name: the node
        # compares the fingerprint and nothing else.
        certificate = (
            _builder("CA", CA_LIFETIME)
            .issuer_name(_name("CA"))
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))
    if not (folder / "redis.pem").exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write_key(folder / "redis.key", key)
        request = x509.CertificateSigningRequestBuilder().subject_name(_name("redis")).sign(key, hashes.SHA256())
        signed = sign(request.public_bytes(serialization.Encoding.PEM).decode(), "redis", redis_address)
        _write(folder / "redis.pem", signed.pem.encode())


def sign(request_pem: str, name: str, address: str) -> Signed:
    """A certificate over the request's key. Name and address are the panel's; the request's own are not looked at.

    Raises :class:`Refused` (``bad_certificate_request``).
    """
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
        public_key = request.public_key()
        if not request.is_signature_valid or not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise ValueError("not a valid request for an EC key")
    except ValueError:
        raise Refused(Refusal("bad_certificate_request")) from None
    key = serialization.load_pem_private_key((_folder() / "ca.key").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(certificate_pem().encode())
    certificate = (
        _builder(name, LIFETIME)
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    return Signed(
        pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        sha256=hashlib.sha256(der).hexdigest(),
        until=certificate.not_valid_after_utc,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(common_name: str, lifetime: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    _write(
        path,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _write(path: Path, content: bytes) -> None:
    """0600 from the first byte, and whole or not at all."""
    part = path.with_suffix(path.suffix + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
