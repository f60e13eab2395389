"""Small valid documents for tests, to be changed one field at a time; nothing here is signed or stored."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.manifest import (
    EngineProfile,
    FileEntry,
    GoldenVectors,
    Manifest,
    TensorSpec,
    encode_manifest,
)


def file_entry(path: str, content: bytes) -> FileEntry:
    """The manifest's entry of a file with this content."""
    step = limits.CHUNK_BYTES
    chunks = tuple(sha256_hex(content[at : at + step]) for at in range(0, len(content), step))
    return FileEntry(path=path, length=len(content), sha256=sha256_hex(content), chunks=chunks)


def a_manifest(**changes: Any) -> Manifest:
    """A valid manifest, tiny@1.0.0, release 10, for the numpy engine, with these changes."""
    manifest = Manifest(
        name="tiny",
        version="1.0.0",
        release=10,
        interface="tiny-1",
        compatible=("x86_64", "jetson"),
        files=(
            file_entry("model.json", b"program"),
            file_entry("golden/x.npy", b"inputs"),
            file_entry("golden/y.npy", b"outputs"),
        ),
        inputs=(TensorSpec("x", "FP32", (-1, 4)),),
        outputs=(TensorSpec("y", "FP32", (-1, 2)),),
        engines=(EngineProfile(engine="numpy", format="numpy-1", program="model.json"),),
        golden=GoldenVectors(count=2, inputs={"x": "golden/x.npy"}, outputs={"y": "golden/y.npy"}),
    )
    return msgspec.structs.replace(manifest, **changes)


def manifest_raw(**changes: Any) -> bytes:
    """The canonical bytes of `a_manifest`."""
    return encode_manifest(a_manifest(**changes))[0]
