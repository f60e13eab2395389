"""The publisher's keys: one Ed25519 key per TUF role, in a folder, with the root file that devices pin.

What is signed with them is signing.py's matter. Why these roles and dates:
docs/decisions/0002-tuf-roles-and-expiry.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.exceptions import Error as SecureSystemsLibError
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Root

from cloud_sync.publish.durable import make_folder, write_file
from edge_agent.contract.errors import Rejected, Unavailable

ROOT_FILE = "1.root.json"
# Holdfast's word for a role -> TUF's. "snapshot" alone always means a model release, except inside TUF files.
TUF_ROLES = {"root": "root", "targets": "targets", "tuf_snapshot": "snapshot", "timestamp": "timestamp"}


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long a signature is good for new content, in days. Serving never ends by a date."""

    root_days: int = 3650
    targets_days: int = 365
    tuf_snapshot_days: int = 90
    timestamp_days: int = 90


def create_keys(folder: Path, *, now: datetime, lifetimes: Lifetimes | None = None) -> Path:
    """Make four keys (PEM, mode 0600) and the first root file in `folder`; gives the path of the root file.

    Raises Rejected when keys are there already; Unavailable when the folder cannot be written.
    """
    present = sorted(name for name in (*_key_files(), ROOT_FILE) if (folder / name).exists())
    if present:
        raise Rejected(
            f"{folder} has keys already ({', '.join(present)})",
            next_step="Name another folder; keys are never overwritten",
        )
    make_folder(folder, mode=0o700)
    signers = {role: CryptoSigner.generate_ed25519() for role in TUF_ROLES}
    root = Root(expires=now + timedelta(days=(lifetimes or Lifetimes()).root_days))
    for role, signer in signers.items():
        root.add_key(signer.public_key, TUF_ROLES[role])
        write_file(folder / f"{role}.pem", signer.private_bytes, mode=0o600)
    metadata = Metadata(root)
    metadata.sign(signers["root"])
    # Last, because its presence means that the folder is complete.
    write_file(folder / ROOT_FILE, metadata.to_bytes())
    return folder / ROOT_FILE


def read_first_root(folder: Path) -> bytes:
    """The root file that devices pin. Raises Rejected when there are no keys in this folder."""
    try:
        return (folder / ROOT_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Rejected(
            f"there are no keys in {folder}", next_step=f"Make them: fleet keys init --keys {folder}"
        ) from error
    except OSError as error:
        raise Unavailable(
            f"{folder / ROOT_FILE} cannot be read: {error.strerror}", next_step="Check who may read it"
        ) from error


def load_signer(folder: Path, role: str, root: Root) -> CryptoSigner:
    """The signer for a role (Holdfast's word), which must be the key that `root` names for it.

    Raises Rejected: the key is missing, is no key, or is not the root's.
    """
    path = folder / f"{role}.pem"
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise Rejected(
            f"the {role} key {path} cannot be read: {error.strerror}",
            next_step="Name the folder with the publisher's keys (--keys)",
        ) from error
    keys = [root.keys[keyid] for keyid in root.roles[TUF_ROLES[role]].keyids]
    for key in keys:
        if isinstance(key, SSlibKey):
            try:
                return CryptoSigner(load_pem_private_key(pem, None), key)
            except (ValueError, TypeError, UnsupportedAlgorithm, SecureSystemsLibError):
                continue  # another of the role's keys may be the one
    raise Rejected(
        f"{path} is not the key that the root names for {role}",
        next_step="Name the folder with the keys that this repository was begun with (--keys)",
    )


def _key_files() -> tuple[str, ...]:
    return tuple(f"{role}.pem" for role in TUF_ROLES)
