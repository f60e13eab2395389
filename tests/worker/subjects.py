"""The engines under test, and the same troubles for each of them in its own model format. Processes are `stand`'s."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tests.harness.agent import PADDLE_PYTHON, ROOT
from tests.harness.damage import crashing_program, other_weights
from tests.models_cache import model_folder
from tests.tiny_model import write_tiny_model

OLD_PYTHON = str(ROOT / ".venv-py37" / "bin" / "python")
INSTALL_OLD_PYTHON = "no worker environment for an old Python: install Python 3.7 or 3.8, then run `make setup`"


@dataclass(frozen=True)
class Subject:
    """One engine in one interpreter, with one model format."""

    name: str
    engine: str
    python: str
    format: str

    def good(self, out: Path) -> Path:
        """A healthy model folder of its own."""
        if self.engine == "numpy":
            return write_tiny_model(out)
        return Path(shutil.copytree(model_folder("digits_lenet", "1.1.0", self.format), out))

    def with_trouble(self, kind: str, out: Path) -> Path:
        """A model folder with this trouble (a key of TROUBLES)."""
        return TROUBLES[kind](self, out)


NUMPY = Subject("numpy", "numpy", sys.executable, "holdfast-numpy")
NUMPY_OLD = Subject("numpy-py37", "numpy", OLD_PYTHON, "holdfast-numpy")
PADDLE_LEGACY = Subject("paddle-legacy", "paddle", PADDLE_PYTHON, "legacy")
PADDLE_PIR = Subject("paddle-pir", "paddle", PADDLE_PYTHON, "pir")
SUBJECTS = (NUMPY, NUMPY_OLD, PADDLE_LEGACY, PADDLE_PIR)


@cache
def has_old_python() -> bool:
    """Whether set-up found an old interpreter and could give it numpy."""
    if not os.access(OLD_PYTHON, os.X_OK):
        return False
    return subprocess.run([OLD_PYTHON, "-c", "import numpy"], capture_output=True, check=False).returncode == 0


def engine_files(folder: Path) -> tuple[Path, Path]:
    """Program and parameters of a model folder."""
    engine = json.loads((folder / "snapshot.json").read_text())["engines"][0]
    return folder / engine["program"], folder / engine["parameters"]


def golden_file(folder: Path, side: str) -> Path:
    """The golden file of the only input or output (side: inputs, outputs)."""
    names: dict[str, str] = json.loads((folder / "snapshot.json").read_text())["golden"][side]
    (path,) = names.values()
    return folder / path


def _wrong_golden(subject: Subject, out: Path) -> Path:
    """Another answer was signed than this model gives."""
    path = golden_file(subject.good(out), "outputs")
    np.save(path, np.load(path) + np.float32(0.01))
    return out


def _nan(subject: Subject, out: Path) -> Path:
    """The last number of the parameters, a weight or bias of the last layer, is no number."""
    parameters = engine_files(subject.good(out))[1]
    parameters.write_bytes(parameters.read_bytes()[:-4] + np.array([np.nan], "<f4").tobytes())
    return out


def _garbage(subject: Subject, out: Path) -> Path:
    """Loads, and computes something else."""
    if subject.engine == "numpy":
        return write_tiny_model(out, layers=({"op": "fault", "when": "run", "kind": "garbage"},))
    return other_weights(model_folder("digits_lenet", "1.1.0", subject.format), out, "1.2.0", 4)


def _grows(subject: Subject, out: Path) -> Path:
    """The load asks for more memory than there may be: 3 GB, for paddle by one bit of a length in a header."""
    if subject.engine == "numpy":
        return write_tiny_model(out, layers=({"op": "fault", "when": "load", "kind": "grow", "amount": 3e9},))
    parameters = engine_files(subject.good(out))[1]
    content = bytearray(parameters.read_bytes())
    content[7] ^= 0x08
    parameters.write_bytes(content)
    return out


def _crash(subject: Subject, out: Path) -> Path:
    """The load ends the process."""
    if subject.engine == "numpy":
        return write_tiny_model(out, layers=({"op": "fault", "when": "load", "kind": "segfault"},))
    return crashing_program(model_folder("digits_lenet", "1.1.0", subject.format), out, "1.2.0", 4)


def _rewritten(position: int, change: Callable[[bytes], bytes]) -> Callable[[Subject, Path], Path]:
    def write(subject: Subject, out: Path) -> Path:
        path = engine_files(subject.good(out))[position]
        path.write_bytes(change(path.read_bytes()))
        return out

    return write


def _noise(content: bytes) -> bytes:
    return np.random.default_rng(11).bytes(len(content))


TROUBLES: dict[str, Callable[[Subject, Path], Path]] = {
    "wrong golden": _wrong_golden,
    "nan": _nan,
    "garbage": _garbage,
    "grows": _grows,
    "crash": _crash,
}
FILE_TROUBLES: dict[str, Callable[[Subject, Path], Path]] = {
    "program is noise": _rewritten(0, _noise),
    "program is empty": _rewritten(0, lambda content: b""),
    "program is cut": _rewritten(0, lambda content: content[: len(content) // 2]),
    "parameters are noise": _rewritten(1, _noise),
    "parameters are empty": _rewritten(1, lambda content: b""),
    "parameters are cut": _rewritten(1, lambda content: content[: len(content) // 2]),
    "parameters are zeros": _rewritten(1, lambda content: bytes(len(content))),
    "parameters are too long": _rewritten(1, lambda content: content + content),
}
