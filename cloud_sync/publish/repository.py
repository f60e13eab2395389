"""The publisher's repository, a folder: metadata/, manifests/NAME/VERSION.json, chunks/SHA256, coordinator.json.

Bytes in and out.

What the signed metadata says and who signs it is signing.py's matter; nothing is trusted for being in the
folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloud_sync.publish.durable import locked, make_folder, sync_folder, write_file, writing
from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import Corrupt, Rejected, Unavailable


class Repository:
    """The folder of one publisher. Reading needs no lock: files appear whole, and timestamp.json last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Make the folders and hold the publisher's lock. Raises Unavailable."""
        for name in ("metadata", "manifests", "chunks"):
            make_folder(self.folder / name)
        with locked(self.folder):
            yield

    def begin(self, first_root: bytes) -> None:
        """Write the first root file where there is none yet. Raises Unavailable."""
        if not self.root_files():
            self.write_metadata("1.root.json", first_root)

    def require(self) -> None:
        """Raises Rejected when there is no repository in this folder."""
        if not (self.folder / "metadata" / "timestamp.json").is_file():
            raise Rejected(
                f"there is no repository in {self.folder}",
                next_step="Name it with --repo, or begin one with `fleet snapshot pack`",
            )

    def read_metadata(self, file_name: str) -> bytes | None:
        """One signed file of metadata/, or None. Raises Corrupt when it is larger than any can be."""
        path = self.folder / "metadata" / file_name
        try:
            with path.open("rb") as stream:
                raw = stream.read(limits.METADATA_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(path, error) from error
        if len(raw) > limits.METADATA_BYTES_MAX:
            raise Corrupt(f"{path} is larger than metadata can be", next_step="Restore the repository's folder")
        return raw

    def write_metadata(self, file_name: str, raw: bytes) -> None:
        """Raises Unavailable."""
        write_file(self.folder / "metadata" / file_name, raw)

    def root_files(self) -> tuple[bytes, ...]:
        """All root files, oldest first; a gap ends the chain."""
        found: list[bytes] = []
        while (raw := self.read_metadata(f"{len(found) + 1}.root.json")) is not None:
            found.append(raw)
            if len(found) > limits.ROOT_CHAIN_MAX:
                raise Corrupt(f"{self.folder} has more root files than devices walk")
        return tuple(found)

    def read_target(self, target_path: str, *, length: int, sha256: str) -> bytes:
        """A manifest as its signed target states it.

        Raises Corrupt when the file is another one or missing.
        """
        return self._read_exactly(self.folder / target_path, length, sha256)

    def write_target(self, target_path: str, raw: bytes) -> None:
        """Raises Unavailable."""
        path = self.folder / target_path
        make_folder(path.parent)
        write_file(path, raw)

    def move_target(self, from_path: str, to_path: str) -> None:
        """Give a target's file another name, replacing what was there, durably. Raises Unavailable."""
        with writing(self.folder / to_path):
            (self.folder / from_path).replace(self.folder / to_path)
            sync_folder(self.folder)

    def has_chunk(self, sha256: str, length: int) -> bool:
        """Whether a file of that name and length is there (its bytes are checked whenever they are read)."""
        path = self.folder / "chunks" / sha256
        return path.is_file() and path.stat().st_size == length

    def read_chunk(self, sha256: str, length: int) -> bytes:
        """Raises Corrupt when the chunk is missing or damaged."""
        return self._read_exactly(self.folder / "chunks" / sha256, length, sha256)

    def write_chunk(self, sha256: str, content: bytes) -> None:
        """Raises Unavailable."""
        write_file(self.folder / "chunks" / sha256, content)

    def _read_exactly(self, path: Path, length: int, sha256: str) -> bytes:
        try:
            with path.open("rb") as stream:
                raw = stream.read(length + 1)
        except FileNotFoundError:
            raw = b""
        except OSError as error:
            raise _unreadable(path, error) from error
        if len(raw) != length or sha256_hex(raw) != sha256:
            raise Corrupt(
                f"{path} is missing or damaged",
                next_step="Restore it from a copy of the repository, or pack again",
            )
        return raw


def _unreadable(path: Path, error: OSError) -> Unavailable:
    return Unavailable(f"{path} cannot be read: {error.strerror}", next_step="Check who may read it")
