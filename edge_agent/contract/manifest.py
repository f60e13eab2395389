"""The manifest: what a snapshot is, as frozen validated types; how it is stored or signed lives elsewhere.

Shapes use -1 for a free dimension. Dtypes are Open Inference Protocol names. Hashes are SHA-256 in lower-case hex.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge_agent.contract import canonical, limits
from edge_agent.contract.errors import Rejected
from edge_agent.contract.reasons import Reason

# \Z and not $: the latter also matches before a newline at the end.
Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9_.-]*[a-z0-9])?\Z", max_length=limits.NAME_CHARS_MAX)]
Version = Annotated[
    str, Meta(pattern=r"^[0-9A-Za-z]([0-9A-Za-z.+_-]*[0-9A-Za-z])?\Z", max_length=limits.VERSION_CHARS_MAX)
]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
RelativePath = Annotated[str, Meta(min_length=1, max_length=limits.PATH_CHARS_MAX)]
# One level of an MQTT topic, a user name at the broker and a file name: no separators, no wildcards.
DeviceId = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?\Z", max_length=limits.NAME_CHARS_MAX)
]
Label = Annotated[str, Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
Count = Annotated[int, Meta(ge=0, le=limits.RELEASE_MAX)]
Positive = Annotated[int, Meta(ge=1, le=limits.RELEASE_MAX)]
Dtype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16",
]  # fmt: skip
Dimension = Annotated[int, Meta(ge=-1, le=2**31 - 1)]

_PLAIN_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


class FileEntry(Struct, frozen=True):
    """One file: length in bytes, hash of the whole, hashes of its 1 MiB chunks in order (none when empty)."""

    path: RelativePath
    length: Count
    sha256: Sha256
    chunks: tuple[Sha256, ...]


class TensorSpec(Struct, frozen=True):
    """One input or output; shape dimensions are -1 (free) or fixed."""

    name: Label
    dtype: Dtype
    shape: Annotated[tuple[Dimension, ...], Meta(max_length=limits.TENSOR_RANK_MAX)]


class Tolerance(Struct, frozen=True):
    """Golden outputs agree when abs(a - b) <= atol + rtol * abs(b); b is the publisher's output."""

    rtol: Annotated[float, Meta(ge=0, le=1)] = 1e-5
    atol: Annotated[float, Meta(ge=0, le=1e6)] = 1e-6


class EngineProfile(Struct, frozen=True):
    """How one engine runs this snapshot: its files, options, tolerance, and the memory measured at packing."""

    engine: Label
    format: Label
    program: RelativePath
    parameters: RelativePath | None = None
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    onednn: bool = False
    tolerance: Tolerance = Tolerance()
    resident_bytes: Count = 0
    load_peak_bytes: Count = 0

    def files(self) -> tuple[str, ...]:
        """Paths of the model's own files, program first."""
        return (self.program,) if self.parameters is None else (self.program, self.parameters)


class GoldenVectors(Struct, frozen=True):
    """Golden inputs and outputs: per tensor one .npy file of shape (count, *tensor shape with batch 1)."""

    count: Annotated[int, Meta(ge=1, le=limits.GOLDEN_VECTORS_MAX)]
    inputs: dict[str, RelativePath]
    outputs: dict[str, RelativePath]


class Manifest(Struct, frozen=True):
    """An immutable model release. Identity: name@version and the digest of these canonical bytes."""

    name: Name
    version: Version
    release: Positive
    interface: Label
    compatible: Annotated[tuple[Label, ...], Meta(min_length=1, max_length=limits.COMPATIBLE_MAX)]
    files: Annotated[tuple[FileEntry, ...], Meta(min_length=1, max_length=limits.SNAPSHOT_FILES_MAX)]
    inputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=limits.TENSORS_MAX)]
    outputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=limits.TENSORS_MAX)]
    engines: Annotated[tuple[EngineProfile, ...], Meta(min_length=1, max_length=limits.ENGINE_PROFILES_MAX)]
    golden: GoldenVectors
    schema: Literal[1] = 1
    must_understand: Annotated[tuple[Label, ...], Meta(max_length=limits.MUST_UNDERSTAND_MAX)] = ()

    def label(self) -> str:
        """name@version, as people say it."""
        return f"{self.name}@{self.version}"

    def file(self, path: str) -> FileEntry:
        """The entry of this path. Raises KeyError if the manifest has none."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise KeyError(path)

    def chunk_hashes(self) -> tuple[str, ...]:
        """All chunks of all files in order, each once."""
        return tuple(dict.fromkeys(chunk for entry in self.files for chunk in entry.chunks))

    def total_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(entry.length for entry in self.files)

    def fits_device(self, device_type: str) -> bool:
        """Whether `compatible` names this device type ('*' means any)."""
        return "*" in self.compatible or device_type in self.compatible

    def profile_for(self, engines: tuple[str, ...]) -> EngineProfile | None:
        """The first engine profile, in the publisher's order, whose engine the device offers."""
        return next((profile for profile in self.engines if profile.engine in engines), None)


def is_plain_path(path: str) -> bool:
    """Whether a path is relative, stays inside its folder, and is made of letters, digits, '_', '.' and '-'."""
    return _PLAIN_PATH.fullmatch(path) is not None


def chunk_lengths(entry: FileEntry) -> tuple[int, ...]:
    """Bytes of each chunk of a file: all CHUNK_BYTES long but the last."""
    full, rest = divmod(entry.length, limits.CHUNK_BYTES)
    return (limits.CHUNK_BYTES,) * full + ((rest,) if rest else ())


def parse_manifest(raw: bytes) -> Manifest:
    """Canonical bytes in, validated manifest out. Raises Rejected: too_large or malformed, with the place."""
    manifest = canonical.decode(raw, Manifest, bytes_max=limits.MANIFEST_BYTES_MAX)
    fault = _first_fault(manifest)
    if fault:
        raise Rejected(f"Manifest is malformed: {fault}", reason=Reason.MALFORMED)
    return manifest


def encode_manifest(manifest: Manifest) -> tuple[bytes, str]:
    """The canonical bytes and their digest. Raises Rejected when the manifest contradicts itself."""
    raw = canonical.encode(manifest)
    parse_manifest(raw)
    return raw, canonical.sha256_hex(raw)


def _first_fault(manifest: Manifest) -> str | None:
    """What field types alone cannot say: paths, counts and names that have to agree with one another."""
    paths = [entry.path for entry in manifest.files]
    if len(set(paths)) != len(paths):
        return "a file path occurs twice"
    for entry in manifest.files:
        if not is_plain_path(entry.path):
            return f"file path {entry.path!r} is not a plain relative path"
        if len(entry.chunks) != len(chunk_lengths(entry)):
            return f"file {entry.path!r} states {len(entry.chunks)} chunks for {entry.length} bytes"
    if manifest.total_bytes() > limits.SNAPSHOT_BYTES_MAX:
        return f"the files have {manifest.total_bytes()} bytes, at most {limits.SNAPSHOT_BYTES_MAX} are allowed"
    return _fault_of_tensors(manifest) or _fault_of_references(manifest, set(paths))


def _fault_of_tensors(manifest: Manifest) -> str | None:
    for side, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        names = [spec.name for spec in specs]
        if len(set(names)) != len(names):
            return f"an {side} name occurs twice"
    if set(manifest.golden.inputs) != {spec.name for spec in manifest.inputs}:
        return "golden inputs are not exactly the model's inputs"
    if set(manifest.golden.outputs) != {spec.name for spec in manifest.outputs}:
        return "golden outputs are not exactly the model's outputs"
    return None


def _fault_of_references(manifest: Manifest, paths: set[str]) -> str | None:
    wanted = [path for profile in manifest.engines for path in profile.files()]
    wanted += [*manifest.golden.inputs.values(), *manifest.golden.outputs.values()]
    for path in wanted:
        if path not in paths:
            return f"{path!r} is used but not among the files"
    engines = [profile.engine for profile in manifest.engines]
    return "an engine occurs twice" if len(set(engines)) != len(engines) else None
