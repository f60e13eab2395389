"""The model folder that a recipe writes: snapshot.json and the files that it names, read strictly.

What becomes of it is pack.py's matter; whether the model does what its golden vectors say, proving.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from edge_agent.contract import limits
from edge_agent.contract.canonical import sha256_hex
from edge_agent.contract.errors import Rejected, Unavailable
from edge_agent.contract.manifest import (
    Count,
    EngineProfile,
    FileEntry,
    GoldenVectors,
    Label,
    Manifest,
    Name,
    Positive,
    RelativePath,
    TensorSpec,
    Tolerance,
    Version,
    is_plain_path,
)
from edge_agent.contract.reasons import Reason

DESCRIPTION_FILE = "snapshot.json"
_DEFAULT = Tolerance()


class EngineEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """How one engine runs the model. Memory in bytes; 0 means: measure it when packing."""

    engine: Label
    format: Label
    program: RelativePath
    parameters: RelativePath | None = None
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    onednn: bool = False
    rtol: Annotated[float, Meta(ge=0, le=1)] = _DEFAULT.rtol
    atol: Annotated[float, Meta(ge=0, le=1e6)] = _DEFAULT.atol
    resident_bytes: Count = 0
    load_peak_bytes: Count = 0

    def profile(self) -> EngineProfile:
        """The same in the manifest's words."""
        return EngineProfile(
            engine=self.engine,
            format=self.format,
            program=self.program,
            parameters=self.parameters,
            threads=self.threads,
            onednn=self.onednn,
            tolerance=Tolerance(rtol=self.rtol, atol=self.atol),
            resident_bytes=self.resident_bytes,
            load_peak_bytes=self.load_peak_bytes,
        )


class Description(Struct, frozen=True, forbid_unknown_fields=True):
    """The content of snapshot.json. golden: required, but its absence deserves its own message."""

    name: Name
    version: Version
    release: Positive
    interface: Label
    compatible: Annotated[tuple[Label, ...], Meta(min_length=1, max_length=limits.COMPATIBLE_MAX)]
    inputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=limits.TENSORS_MAX)]
    outputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=limits.TENSORS_MAX)]
    engines: Annotated[tuple[EngineEntry, ...], Meta(min_length=1, max_length=limits.ENGINE_PROFILES_MAX)]
    golden: GoldenVectors | None = None


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model folder whose description is valid and whose files are there. paths: each file once, sorted."""

    folder: Path
    description: Description
    golden: GoldenVectors
    paths: tuple[str, ...]

    def label(self) -> str:
        """name@version."""
        return f"{self.description.name}@{self.description.version}"

    def manifest(self, files: tuple[FileEntry, ...], engines: tuple[EngineProfile, ...]) -> Manifest:
        """The manifest that this folder becomes, with hashed files and measured engine profiles."""
        about = self.description
        return Manifest(
            name=about.name,
            version=about.version,
            release=about.release,
            interface=about.interface,
            compatible=about.compatible,
            files=files,
            inputs=about.inputs,
            outputs=about.outputs,
            engines=engines,
            golden=self.golden,
        )


def read_model_folder(folder: Path) -> ModelFolder:
    """Raises Rejected: no such folder, a malformed description, no golden vectors, a file missing."""
    description = _read_description(folder)
    golden = description.golden
    if golden is None or not golden.inputs or not golden.outputs:
        raise Rejected(
            f"the model folder {folder} has no golden vectors",
            reason=Reason.MALFORMED,
            next_step=f"Add .npy files and name them under 'golden' in {DESCRIPTION_FILE}",
        )
    wanted = {path for engine in description.engines for path in engine.profile().files()}
    wanted |= {*golden.inputs.values(), *golden.outputs.values()}
    for path in sorted(wanted):
        _check_file(folder, path)
    return ModelFolder(folder, description, golden, tuple(sorted(wanted)))


def hash_file(path: Path, name: str, advance: Callable[[int], None]) -> FileEntry:
    """The manifest's entry of a file; reads it in chunks and tells `advance` how many bytes were read."""
    whole, chunks, length = hashlib.sha256(), [], 0
    for chunk in read_chunks(path):
        whole.update(chunk)
        chunks.append(sha256_hex(chunk))
        length += len(chunk)
        advance(len(chunk))
    return FileEntry(path=name, length=length, sha256=whole.hexdigest(), chunks=tuple(chunks))


def read_chunks(path: Path) -> Iterator[bytes]:
    """The file's chunks of CHUNK_BYTES in order, the last one as short as it is. Raises Unavailable."""
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(limits.CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be read: {error.strerror}", next_step="Check the medium and who may read it"
        ) from error


def _read_description(folder: Path) -> Description:
    path = folder / DESCRIPTION_FILE
    try:
        with path.open("rb") as stream:
            raw = stream.read(limits.MODEL_DESCRIPTION_BYTES_MAX + 1)
    except OSError as error:
        raise Rejected(
            f"{path} cannot be read: {error.strerror}",
            next_step="Name the folder that the model's recipe wrote (models/README.md says how)",
        ) from error
    if len(raw) > limits.MODEL_DESCRIPTION_BYTES_MAX:
        raise Rejected(f"{path} has more than {limits.MODEL_DESCRIPTION_BYTES_MAX} bytes", reason=Reason.TOO_LARGE)
    try:
        return msgspec.json.decode(raw, type=Description)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Rejected(
            f"{path} is malformed: {error}",
            reason=Reason.MALFORMED,
            next_step="Mend the recipe that wrote it",
        ) from error


def _check_file(folder: Path, name: str) -> None:
    path = folder / name
    if not is_plain_path(name) or not path.resolve().is_relative_to(folder.resolve()):
        raise Rejected(
            f"{name!r} is not a path inside the model folder",
            reason=Reason.MALFORMED,
            next_step="Keep all files inside the folder and name them by plain relative paths",
        )
    if not path.is_file():
        raise Rejected(
            f"{DESCRIPTION_FILE} names {name}, but there is no such file in {folder}",
            reason=Reason.MALFORMED,
            next_step="Run the model's recipe again, or mend the name",
        )
