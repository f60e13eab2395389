"""The directory of a ZIP file with stored entries, read strictly and within bounds.

What the entries mean is not known here: that is bundle_reader.py's. A parser of our own, because the usual
ones read the directory whole, at whatever size the file claims, and go on where a file is odd. Ours refuses
at the first oddity: compression, encryption, comments, several disks, an entry that points outside of the
file. ZIP64 is read, as bundles may be larger than 4 GiB.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.contract import limits
from edge_agent.contract.errors import Rejected, Unavailable
from edge_agent.contract.reasons import Reason

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_LOCATOR64 = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_FIELD = struct.Struct("<HH")
_ZIP64_FIELD = 0x0001
_UTF8_FLAG = 0x0800  # of all flag bits the only one that changes nothing for a stored entry
_IN_ZIP64 = 0xFFFFFFFF
_COUNT_IN_ZIP64 = 0xFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one entry's local header begins in the file, and how many bytes its content has."""

    name: str
    header_offset: int
    length: int


@dataclass(frozen=True, slots=True)
class _Directory:
    offset: int
    length: int
    entries: int


def read_index(fd: int, file_bytes: int) -> dict[str, Entry]:
    """Entries by name. Reads the last bytes and the directory, nothing else.

    Raises Rejected: truncated, malformed, too_large. Unavailable: the file cannot be read.
    """
    directory = _find_directory(fd, file_bytes)
    raw = read_at(fd, directory.offset, directory.length)
    entries: dict[str, Entry] = {}
    at = 0
    for _ in range(directory.entries):
        entry, at = _parse_entry(raw, at)
        if entry.name in entries:
            raise _malformed(f"entry {entry.name!r} occurs twice")
        if entry.header_offset + _LOCAL.size + len(entry.name) + entry.length > directory.offset:
            raise _malformed(f"entry {entry.name!r} points outside of its place")
        entries[entry.name] = entry
    if at != len(raw):
        raise _malformed("its directory is longer than its entries")
    return entries


def read_entry(fd: int, entry: Entry) -> bytes:
    """The content of one entry; the caller has bounded its length.

    Raises Rejected: truncated, malformed. Unavailable: the file cannot be read.
    """
    fields = _LOCAL.unpack(read_at(fd, entry.header_offset, _LOCAL.size))
    signature, flags, method, name_bytes, extra_bytes = fields[0], fields[2], fields[3], fields[9], fields[10]
    if signature != b"PK\x03\x04" or method != 0 or flags & ~_UTF8_FLAG:
        raise _malformed(f"entry {entry.name!r} has no plain header")
    name_at = entry.header_offset + _LOCAL.size
    if read_at(fd, name_at, min(name_bytes, limits.BUNDLE_NAME_BYTES_MAX)) != entry.name.encode():
        raise _malformed(f"entry {entry.name!r} has another name in its header")
    return read_at(fd, name_at + name_bytes + extra_bytes, entry.length)


def read_at(fd: int, offset: int, length: int) -> bytes:
    """Exactly `length` bytes. Raises Rejected (truncated) where the file ends; Unavailable on I/O errors."""
    parts: list[bytes] = []
    missing = length
    while missing:
        try:
            part = os.pread(fd, missing, offset + length - missing)
        except OSError as error:
            raise Unavailable(
                f"the bundle cannot be read: {error.strerror}",
                next_step="Check the medium that holds the file",
            ) from error
        if not part:
            raise Rejected(f"the bundle ends before byte {offset + length}", reason=Reason.TRUNCATED)
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _find_directory(fd: int, file_bytes: int) -> _Directory:
    if file_bytes < _END.size:
        raise Rejected("the bundle ends before its directory", reason=Reason.TRUNCATED)
    end_at = file_bytes - _END.size
    signature, disk, first_disk, here, entries, length, offset, comment = _END.unpack(read_at(fd, end_at, _END.size))
    if signature != b"PK\x05\x06":
        raise Rejected("the bundle ends before its directory", reason=Reason.TRUNCATED)
    if disk or first_disk or here != entries or comment:
        raise _malformed("its end record has a comment or names several disks")
    directory = _Directory(offset, length, entries)
    if _IN_ZIP64 in (length, offset) or entries == _COUNT_IN_ZIP64:
        directory, end_at = _find_directory64(fd, end_at)
    if directory.entries > limits.BUNDLE_ENTRIES_MAX or directory.length > limits.BUNDLE_DIRECTORY_BYTES_MAX:
        raise Rejected(
            f"the bundle has {directory.entries} entries and a directory of {directory.length} bytes,"
            f" at most {limits.BUNDLE_ENTRIES_MAX} and {limits.BUNDLE_DIRECTORY_BYTES_MAX} are allowed",
            reason=Reason.TOO_LARGE,
        )
    if directory.offset + directory.length != end_at:
        raise _malformed("its directory is not where its end record says")
    return directory


def _find_directory64(fd: int, end_at: int) -> tuple[_Directory, int]:
    """The ZIP64 directory and where its end record begins."""
    locator_at = end_at - _LOCATOR64.size
    record_at = locator_at - _END64.size
    if record_at < 0:
        raise _malformed("its ZIP64 records are missing")
    signature, disk, offset, disks = _LOCATOR64.unpack(read_at(fd, locator_at, _LOCATOR64.size))
    if signature != b"PK\x06\x07" or disk or disks > 1 or offset != record_at:
        raise _malformed("its ZIP64 locator is not as agreed")
    record = _END64.unpack(read_at(fd, record_at, _END64.size))
    signature, size, disk, first_disk, here, entries, length, offset = (record[0], record[1], *record[4:])
    if signature != b"PK\x06\x06" or size != _END64.size - 12 or disk or first_disk or here != entries:
        raise _malformed("its ZIP64 end record is not as agreed")
    return _Directory(offset, length, entries), record_at


def _parse_entry(raw: bytes, at: int) -> tuple[Entry, int]:
    """The directory entry that begins at `at`, and where the next one begins."""
    if at + _CENTRAL.size > len(raw):
        raise _malformed("its directory is shorter than its entries")
    fields = _CENTRAL.unpack_from(raw, at)
    signature, flags, method, stored_bytes, length = fields[0], fields[3], fields[4], fields[8], fields[9]
    name_bytes, extra_bytes, comment_bytes, disk, offset = *fields[10:14], fields[16]
    name_at = at + _CENTRAL.size
    end = name_at + name_bytes + extra_bytes
    if signature != b"PK\x01\x02" or end > len(raw):
        raise _malformed("its directory is damaged")
    name = _name(raw[name_at : name_at + name_bytes])
    if method != 0 or flags & ~_UTF8_FLAG or comment_bytes or disk:
        raise _malformed(f"entry {name!r} is compressed, encrypted or has a comment")
    wide = _zip64_values(raw[name_at + name_bytes : end])
    values = [next(wide, -1) if value == _IN_ZIP64 else value for value in (length, stored_bytes, offset)]
    if min(values) < 0 or values[0] != values[1]:
        raise _malformed(f"entry {name!r} contradicts itself about its size")
    return Entry(name, header_offset=values[2], length=values[0]), end


def _zip64_values(extra: bytes) -> Iterator[int]:
    """The 64-bit numbers that stand in for those that did not fit (ZIP specification, 4.5.3)."""
    at = 0
    while at + _FIELD.size <= len(extra):
        kind, length = _FIELD.unpack_from(extra, at)
        at += _FIELD.size
        if kind == _ZIP64_FIELD:
            body = extra[at : at + length]
            return iter(struct.unpack_from(f"<{len(body) // 8}Q", body))
        at += length
    return iter(())


def _name(raw: bytes) -> str:
    if not 1 <= len(raw) <= limits.BUNDLE_NAME_BYTES_MAX or not raw.isascii():
        raise _malformed("an entry has a name that is empty, too long or not ASCII")
    return raw.decode("ascii")


def _malformed(fault: str) -> Rejected:
    return Rejected(f"this is not a Holdfast bundle: {fault}", reason=Reason.MALFORMED)
