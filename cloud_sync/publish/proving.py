"""Running a model's golden vectors before it is signed, in the interpreter that has its engine.

The subprocess is the device's own worker (`edge_agent/worker`), started by path and never imported, so that
what is proven here is proven by the code that will prove it on the device.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

import edge_agent.contract
from cloud_sync.publish.model_folder import ModelFolder
from edge_agent.contract import limits
from edge_agent.contract.errors import Rejected, Unavailable
from edge_agent.contract.manifest import EngineProfile
from edge_agent.contract.reasons import Reason

_PROJECT = Path(edge_agent.contract.__file__).parents[2]
_WORKER = _PROJECT / "edge_agent" / "worker" / "__main__.py"


@dataclass(frozen=True, slots=True)
class Interpreters:
    """Which Python runs which engine.

    chosen: by --engine-python; environment: where HOLDFAST_ENGINE_PYTHON is.
    """

    chosen: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def find(self, engine: str) -> Path:
        """The first that is there: chosen, environment, .venv-ENGINE beside the project, this interpreter."""
        variable = f"HOLDFAST_{engine.upper().replace('-', '_')}_PYTHON"
        if engine in self.chosen:
            return self.chosen[engine]
        if self.environment.get(variable):
            return Path(self.environment[variable])
        beside = _PROJECT / f".venv-{engine}" / "bin" / "python"
        return beside if beside.exists() else Path(sys.executable)


@dataclass(frozen=True, slots=True)
class Proof:
    """A passed proof: how many vectors, how far off at most, and the memory that it took (bytes)."""

    profile: EngineProfile
    vectors: int
    max_abs_error: float
    max_rel_error: float
    resident_bytes: int
    load_peak_bytes: int


def prove(
    model: ModelFolder,
    profile: EngineProfile,
    interpreters: Interpreters,
    *,
    timeout_s: float = limits.PACK_PROOF_S,
) -> Proof:
    """Run all golden vectors of a model folder with one engine profile.

    Raises Rejected: the model does not load, does not reproduce its golden vectors (with the numbers),
    crashes or takes too long. Unavailable: the interpreter or the engine is not there.
    """
    interpreter = interpreters.find(profile.engine)
    with tempfile.TemporaryDirectory(prefix="holdfast-prove-") as scratch:
        descriptor = Path(scratch) / "descriptor.json"
        descriptor.write_bytes(msgspec.json.encode(_descriptor(model, profile)))
        answer = _run(interpreter, descriptor, model, profile, timeout_s)
    if not answer.get("ok"):
        raise _failure(answer, interpreter, model, profile)
    return _read_proof(answer, profile)


def _descriptor(model: ModelFolder, profile: EngineProfile) -> dict[str, Any]:
    """What the worker's `prove` reads: the fields of a load request, with the folder that the files are in."""
    files = [
        {"name": name, "role": role} for role, name in zip(("program", "parameters"), profile.files(), strict=False)
    ]
    vectors = {*model.golden.inputs.values(), *model.golden.outputs.values()} - set(profile.files())
    return {
        "folder": str(model.folder.resolve()),
        "engine": profile.engine,
        "format": profile.format,
        "files": [*files, *({"name": name, "role": "golden"} for name in sorted(vectors))],
        "inputs": model.description.inputs,
        "outputs": model.description.outputs,
        "options": {"threads": profile.threads, "onednn": profile.onednn},
        "golden": model.golden,
        "tolerance": profile.tolerance,
    }


def _run(
    interpreter: Path, descriptor: Path, model: ModelFolder, profile: EngineProfile, timeout_s: float
) -> dict[str, Any]:
    """The worker's last line on stdout, a JSON object.

    Output goes to files: an engine may write any amount of it.
    """
    command = [str(interpreter), str(_WORKER), "prove", "--descriptor", str(descriptor)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        except OSError as error:
            raise Unavailable(
                f"the interpreter {interpreter} for {profile.engine} cannot be started: {error.strerror}",
                next_step=f"Name one: --engine-python {profile.engine}=PATH",
            ) from error
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise Rejected(
                f"{model.label()} did not prove itself with {profile.engine} within {timeout_s:.0f} s",
                reason=Reason.LOAD_TIMEOUT,
                next_step="Look for a hang at load; run fewer golden vectors if the model is slow",
            ) from error
        finally:
            _end(process)
        lines = _tail(out).strip().splitlines()
        with contextlib.suppress(ValueError, IndexError):
            answer = json.loads(lines[-1])
            if isinstance(answer, dict):
                return answer
        last = (_tail(err).strip().splitlines() or ["nothing was said"])[-1][: limits.DETAIL_CHARS_MAX]
        if last.startswith(("ModuleNotFoundError", "ImportError")):
            raise _engine_missing(last, interpreter, profile)
        raise _crash(process.returncode, last, model, profile)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what has not ended by itself, with whatever the engine has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(stream: BinaryIO) -> str:
    length = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, length - limits.PACK_PROOF_OUTPUT_BYTES_MAX))
    return stream.read().decode("utf-8", "replace")


def _crash(code: int, last: str, model: ModelFolder, profile: EngineProfile) -> Rejected:
    ending = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return Rejected(
        f"the {profile.engine} process ended {ending} while it proved {model.label()}: {last}",
        reason=Reason.LOAD_CRASH,
        next_step="Export the model again with the engine version that the devices run",
    )


def _engine_missing(detail: str, interpreter: Path, profile: EngineProfile) -> Unavailable:
    return Unavailable(
        f"{interpreter} does not have the engine {profile.engine}: {detail}",
        reason=Reason.ENGINE_MISSING,
        next_step=f"Name an interpreter that has it: --engine-python {profile.engine}=PATH",
    )


_REASONS = {
    "load_failed": Reason.LOAD_FAILED,
    "proof": Reason.PROOF,
    "non_finite": Reason.NON_FINITE,
    "memory": Reason.LOAD_MEMORY,
    "malformed": Reason.MALFORMED,
}


def _failure(
    answer: dict[str, Any], interpreter: Path, model: ModelFolder, profile: EngineProfile
) -> Rejected | Unavailable:
    message = str(answer.get("detail", ""))[: limits.DETAIL_CHARS_MAX]
    word = answer.get("reason")
    if word == "engine_missing":
        return _engine_missing(message, interpreter, profile)
    reason = _REASONS.get(str(word), Reason.LOAD_FAILED)
    if reason in (Reason.PROOF, Reason.NON_FINITE):
        what = "does not reproduce its golden vectors"
        step = "Make the golden vectors with the very files that are packed, or widen rtol and atol"
    else:
        what = "does not run"
        step = "Mend the model or its engine entry in snapshot.json; export it again for this engine"
    return Rejected(f"{model.label()} {what} with {profile.engine}: {message}", reason=reason, next_step=step)


def _read_proof(answer: dict[str, Any], profile: EngineProfile) -> Proof:
    proof = answer["proof"]
    return Proof(
        profile=profile,
        vectors=int(proof["vectors"]),
        max_abs_error=float(proof["max_abs_error"]),
        max_rel_error=float(proof["max_rel_error"]),
        resident_bytes=int(answer.get("resident_bytes", 0)),
        load_peak_bytes=int(answer.get("load_peak_bytes", 0)),
    )
