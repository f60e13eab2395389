"""A fleet's own authority for tests: certificates of the broker, of devices, of strangers. TLS itself is OpenSSL's."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.harness.broker import HOST

HOUR = timedelta(hours=1)


class Authority:
    """Makes certificates in `folder`, its own as ca.pem; each NAME.pem has its NAME.key beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("fleet")
        self._write("ca", self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))

    def issue(self, common_name: str, *, file: str | None = None) -> tuple[Path, Path]:
        """Certificate and key for this common name, as files; good for the broker's address too."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._write(
            file or common_name,
            _name(common_name),
            key,
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]),
        )

    def context(self, common_name: str | None) -> ssl.SSLContext:
        """For a client with a certificate of this common name (None: without one) that trusts this authority."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        if common_name is not None:
            context.load_cert_chain(*self.issue(common_name))
        return context

    def _write(
        self, file: str, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> tuple[Path, Path]:
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + HOUR)
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )
        paths = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return paths


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
