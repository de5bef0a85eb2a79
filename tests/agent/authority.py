"""A cluster's certificate authority as small as a test needs it."""

import datetime
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM


class Authority:
    """A CA whose own certificate is also the server's."""

    def __init__(self, folder, name="ca"):
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self.build(name, self.key.public_key(), ca=True)
        self.file = folder / "ca-and-key.pem"
        private = self.key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.file.write_bytes(self.certificate.public_bytes(PEM) + private)

    def serves(self, host, **dates):
        """TLS of a server by that name."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "web")])
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file = self.file.with_name("web.pem")
        file.write_bytes(self.build(name, key.public_key(), host=host, **dates).public_bytes(PEM) + private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def build(self, name, public_key, ca=False, host=None, from_days=-1, until_days=9):
        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(1)
        issuer = name if ca else self.certificate.subject
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(public_key)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now + from_days * day)
        builder = builder.not_valid_after(now + until_days * day)
        if host:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return builder.add_extension(x509.BasicConstraints(ca, None), critical=True).sign(self.key, hashes.SHA256())

    @property
    def pem(self):
        return self.certificate.public_bytes(PEM).decode()

    @property
    def fingerprint(self):
        return "sha256:" + self.certificate.fingerprint(hashes.SHA256()).hex()

    def answer(self, request):
        public_key = x509.load_pem_x509_csr(request.certificate_request_pem.encode()).public_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n1")])
        return {
            "node": "a" * 13,
            "name": "n1",
            "certificate_pem": self.build(name, public_key).public_bytes(PEM).decode(),
            "ca_pem": self.pem,
            "redis_host": "10.0.0.1",
            "redis_port": 6400,
            "peers": {"n1": "10.0.0.2", "n2": "10.0.0.3"},
        }
