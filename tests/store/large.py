"""A file beyond 4 GiB that is described by a manifest and made of seven different chunks; nothing of it is written out.

The hash of the whole was made once, outside of the product:

    python -c "from tests.store.large import *; import hashlib; h = hashlib.sha256()
    for piece in pieces(): h.update(piece)
    print(h.hexdigest())"
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.manifest import FileEntry

LENGTH = 4 * limits.GIB + 64 * limits.MIB + 5
SHA256 = "1846d161b34c3b250ad395c7d9553954800131d66dfc7e88502a797d18695dd7"
ZEROS = bytes(limits.CHUNK_BYTES)
# Marked chunks, by their place in the file: beside 2 GiB and 4 GiB, where a 32-bit number would wrap, and at the end.
MARKED = (2047, 2048, 4095, 4096)


def marked(place: int) -> bytes:
    """A chunk with its place at both ends."""
    mark = b"<%d>" % place
    return mark + bytes(limits.CHUNK_BYTES - 2 * len(mark)) + mark


CHUNKS = {sha256_hex(data): data for data in (ZEROS, *map(marked, MARKED), b"<end>")}


def pieces() -> Iterator[bytes]:
    """The whole file, chunk by chunk."""
    for place in range(LENGTH // limits.CHUNK_BYTES):
        yield marked(place) if place in MARKED else ZEROS
    yield b"<end>"


def entry(path: str = "large") -> FileEntry:
    """What a manifest says of it."""
    by_place = {place: sha256_hex(marked(place)) for place in MARKED}
    zeros = sha256_hex(ZEROS)
    places = range(LENGTH // limits.CHUNK_BYTES)
    return FileEntry(path, LENGTH, SHA256, (*(by_place.get(place, zeros) for place in places), sha256_hex(b"<end>")))
