"""Reads a bundle file for whoever offers a snapshot: evidence, manifest, chunks.

It verifies no signature and no hash: the runtime does, over the same bytes. What is checked here is only that
reading stays within bounds.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from edge_agent.contract import evidence as names
from edge_agent.contract import limits
from edge_agent.contract.errors import Rejected, Unavailable
from edge_agent.contract.evidence import Evidence
from edge_agent.contract.reasons import Reason
from edge_agent.offer.zip_index import Entry, read_at, read_entry, read_index

_ROOT_ENTRY = re.compile(r"metadata/([1-9][0-9]{0,8})\.root\.json")
_LOCAL_HEADER = b"PK\x03\x04"


class BundleReader:
    """An open bundle. Small parts are read at once (a few MiB at most), chunks one by one when asked for.

    path: the file. evidence, manifest_raw: not verified. Several threads may read; close it, or use `with`.
    """

    def __init__(self, path: Path) -> None:
        """Raises Rejected: truncated, malformed, too_large, or no such file. Unavailable: cannot be read."""
        self.path = path
        self._fd = _open_regular(path)
        try:
            self._entries = self._read_entries()
            self.manifest_raw = self._read(names.BUNDLE_MANIFEST_ENTRY, limits.MANIFEST_BYTES_MAX)
            self.evidence = self._read_evidence()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> BundleReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; harmless when it is closed already."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def has_chunk(self, sha256: str) -> bool:
        """Whether the bundle has an entry for the chunk with this hash (64 lower-case hex digits)."""
        return names.bundle_chunk_entry(sha256) in self._entries

    def chunk(self, sha256: str) -> bytes:
        """The bytes that the bundle holds under this hash; whether they have it is for the runtime to check.

        Raises Rejected: chunk_mismatch (no such chunk), too_large, truncated, malformed.
        Unavailable: cannot be read.
        """
        if not self.has_chunk(sha256):
            raise Rejected(f"the bundle has no chunk {sha256[:12]}…", reason=Reason.CHUNK_MISMATCH)
        return self._read(names.bundle_chunk_entry(sha256), limits.CHUNK_BYTES)

    def _read_entries(self) -> Mapping[str, Entry]:
        file_bytes = os.fstat(self._fd).st_size
        if file_bytes == 0:
            raise Rejected("the bundle is empty (0 bytes)", reason=Reason.TRUNCATED)
        head = read_at(self._fd, 0, min(file_bytes, len(_LOCAL_HEADER)))
        if not _LOCAL_HEADER.startswith(head):
            raise Rejected("this is not a Holdfast bundle: it does not begin as one", reason=Reason.MALFORMED)
        if file_bytes > limits.BUNDLE_BYTES_MAX:
            raise Rejected(
                f"the bundle has {file_bytes} bytes, at most {limits.BUNDLE_BYTES_MAX} are allowed",
                reason=Reason.TOO_LARGE,
            )
        entries = read_index(self._fd, file_bytes)
        self._entries = entries
        found = self._read(names.BUNDLE_FORMAT_ENTRY, limits.BUNDLE_FORMAT_BYTES_MAX)
        if found != names.BUNDLE_FORMAT.encode():
            raise Rejected(f"the bundle has the unknown format {found[:40]!r}", reason=Reason.MALFORMED)
        return entries

    def _read_evidence(self) -> Evidence:
        versions = sorted(int(match[1]) for match in map(_ROOT_ENTRY.fullmatch, self._entries) if match)
        if len(versions) > limits.ROOT_CHAIN_MAX:
            raise Rejected(
                f"the bundle has {len(versions)} root files, at most {limits.ROOT_CHAIN_MAX} are allowed",
                reason=Reason.TOO_LARGE,
            )
        return Evidence(
            root_chain=tuple(self._read_metadata(names.bundle_root_entry(version)) for version in versions),
            timestamp=self._read_metadata(names.BUNDLE_TIMESTAMP_ENTRY),
            tuf_snapshot=self._read_metadata(names.BUNDLE_TUF_SNAPSHOT_ENTRY),
            targets=self._read_metadata(names.BUNDLE_TARGETS_ENTRY),
        )

    def _read_metadata(self, name: str) -> bytes:
        return self._read(name, limits.METADATA_BYTES_MAX)

    def _read(self, name: str, bytes_max: int) -> bytes:
        entry = self._entries.get(name)
        if entry is None:
            raise Rejected(f"this is not a whole Holdfast bundle: it has no {name}", reason=Reason.MALFORMED)
        if entry.length > bytes_max:
            raise Rejected(
                f"{name} in the bundle has {entry.length} bytes, at most {bytes_max} are allowed",
                reason=Reason.TOO_LARGE,
            )
        return read_entry(self._fd, entry)


def _open_regular(path: Path) -> int:
    """A file descriptor of a regular file; a pipe or a device must not make the reader wait."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Rejected(f"there is no bundle at {path}", next_step="Check the path") from error
    except OSError as error:
        raise Unavailable(
            f"the bundle {path} cannot be opened: {error.strerror}", next_step="Check who may read the file"
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Rejected(f"{path} is not a file", next_step="Name the bundle file that `fleet bundle` wrote")
    return fd
