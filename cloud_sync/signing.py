"""The coordinator's key and what follows from it: signed envelopes (Ed25519), and the token of each device. What is
signed, and what a token opens, is decided elsewhere.
"""

from __future__ import annotations

import base64
import hmac
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from edge_agent.contract import canonical
from edge_agent.contract.envelope import Envelope, SignedKind, signing_input
from edge_agent.contract.errors import Corrupt, Unavailable

# What each derived secret is for: one can never pass for another.
_TOKENS_INFO = b"holdfast-1 secret of the devices' tokens"
_TOKEN_LINE = b"holdfast-1 device-token "
_SECRET_BYTES = 32


class Signer:
    """Signs as the coordinator. public_key: raw, as 64 hexadecimal digits, as the publisher names it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        self._tokens_secret = HKDF(SHA256(), _SECRET_BYTES, salt=None, info=_TOKENS_INFO).derive(raw)

    @classmethod
    def generate(cls) -> Signer:
        """A new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Signer:
        """Raises Unavailable (cannot be read) or Corrupt (not such a key)."""
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise Unavailable(
                f"{path} cannot be read: {error.strerror}", next_step="Check who may read it, or run `cloud-sync init`"
            ) from error
        except (ValueError, TypeError) as error:
            raise _not_a_key(path) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _not_a_key(path)
        return cls(key)

    def pem(self) -> bytes:
        """The private key, to be kept in a file that only its owner may read."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def envelope(self, kind: SignedKind, document: Any) -> bytes:
        """The canonical bytes of the signed document."""
        payload = canonical.encode(document)
        return canonical.encode(Envelope(payload, self._key.sign(signing_input(kind, payload))))

    def device_token(self, device_id: str) -> str:
        """What this device shows when it asks over HTTP: the same as long as the coordinator's key is."""
        said = hmac.digest(self._tokens_secret, _TOKEN_LINE + device_id.encode(), sha256)
        return base64.urlsafe_b64encode(said).rstrip(b"=").decode()


def _not_a_key(path: Path) -> Corrupt:
    return Corrupt(
        f"{path} is no Ed25519 private key",
        next_step="Restore it from a copy; a new one (`cloud-sync init` in a new folder) has to be authorized",
    )
