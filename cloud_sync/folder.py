"""The coordinator's data folder: what is where, making it, and keeping a second coordinator out.

What the files mean is known to who reads them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloud_sync.publish.durable import locked, make_folder, write_file
from cloud_sync.publish.signing import check_first_root
from cloud_sync.signing import Signer
from edge_agent.contract import limits
from edge_agent.contract.errors import Rejected, Unavailable

TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Paths in one folder."""

    path: Path

    @property
    def key(self) -> Path:
        """The coordinator's private key, PEM."""
        return self.path / "coordinator.key"

    @property
    def public_key(self) -> Path:
        """What the publisher authorizes: 64 hexadecimal digits and a newline."""
        return self.path / "coordinator.pub"

    @property
    def token(self) -> Path:
        """The operator's bearer token."""
        return self.path / "token"

    @property
    def root(self) -> Path:
        """The publisher's first root: all trust in uploads begins there."""
        return self.path / "1.root.json"

    @property
    def database(self) -> Path:
        """SQLite."""
        return self.path / "coordinator.db"

    @property
    def repository(self) -> Path:
        """As the publisher's own: metadata/, manifests/, chunks/, coordinator.json."""
        return self.path / "repository"

    @property
    def waiting(self) -> Path:
        """Uploaded documents that no signed metadata names yet."""
        return self.path / "waiting"

    @property
    def endpoint(self) -> Path:
        """Where the running coordinator listens: {"url", "pid"}."""
        return self.path / "endpoint.json"

    def read(self, path: Path) -> bytes:
        """A small file of the folder. Raises Unavailable."""
        try:
            return path.read_bytes()
        except OSError as error:
            raise Unavailable(
                f"{path} cannot be read: {error.strerror}",
                next_step=f"Make the folder with `cloud-sync init --data {self.path} --root 1.root.json`",
            ) from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other coordinators out; the lock ends with the process. Raises Unavailable."""
        if not self.path.is_dir():
            self.read(self.key)
        once = "Stop it first, or name another folder with --data; one folder has one coordinator"
        with locked(self.path, "coordinator", once):
            yield


def init(folder: DataFolder, root_file: Path) -> str:
    """Make the folder with a new key and token; gives the public key.

    Raises Rejected when something of it is there already, or the root cannot be one; Unavailable.
    """
    files = (folder.key, folder.public_key, folder.token, folder.root)
    present = [path.name for path in files if path.exists()]
    if present:
        raise Rejected(
            f"{folder.path} has a coordinator already ({', '.join(present)})",
            next_step="Name another folder; keys are never overwritten",
        )
    try:
        root = root_file.read_bytes()
    except OSError as error:
        raise Rejected(
            f"{root_file} cannot be read: {error.strerror}", next_step="Name the publisher's 1.root.json with --root"
        ) from error
    if not root or len(root) > limits.METADATA_BYTES_MAX:
        raise Rejected(f"{root_file} is no root file", next_step="Name the publisher's 1.root.json with --root")
    check_first_root(root)
    signer = Signer.generate()
    make_folder(folder.path, mode=0o700)
    write_file(folder.root, root)
    write_file(folder.token, secrets.token_urlsafe(TOKEN_BYTES).encode() + b"\n", mode=0o600)
    write_file(folder.public_key, signer.public_key.encode() + b"\n")
    # Last, because its presence means that the folder is complete.
    write_file(folder.key, signer.pem(), mode=0o600)
    return signer.public_key
