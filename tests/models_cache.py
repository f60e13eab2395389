"""Model folders for tests, demonstration and benchmarks: made by the recipes once, then kept. Recipes are in models/.

    folder = model_folder("digits_lenet", "1.1.0")            # what `fleet snapshot pack` reads; do not write into it
    pictures = heldout("digits_lenet", "1.0.0", "1.1.0")      # never trained on, with reference outputs per version

Kept below .cache/models by the hash of all that decides the bytes: recipes, engine adapters, pins, interpreter, CPU.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "models"
RECIPE_TIMEOUT_S = 300
PADDLE_PYTHON = Path(os.environ.get("HOLDFAST_PADDLE_PYTHON") or ROOT / ".venv-paddle" / "bin" / "python")
_INTERPRETERS = {"tiny_numpy": Path(sys.executable)}  # every other recipe needs paddle


@dataclass(frozen=True, slots=True)
class Recipe:
    """One call of a recipe. name: a folder below models/; options: more arguments, as ("--fault", "run:slow:5")."""

    name: str
    version: str = "1.0.0"
    format: str = "legacy"
    options: tuple[str, ...] = ()

    def command(self, out: Path) -> list[str]:
        """What makes it, into out/folder and out/heldout."""
        script = ROOT / "models" / self.name / "recipe.py"
        command = [str(_INTERPRETERS.get(self.name, PADDLE_PYTHON)), str(script)]
        command += ["--version", self.version, "--out", str(out / "folder")]
        if self.name != "tiny_numpy":
            command += ["--format", self.format]
        if self.name != "mobilenet_v2":
            command += ["--heldout", str(out / "heldout")]
        return [*command, *self.options]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Files (.npy): inputs (n, 1, 8, 8) float32, labels (n,) int64, and per version the outputs (n, 1, 10) float32."""

    inputs: Path
    labels: Path
    expected: dict[str, Path]

    def accuracy(self, version: str) -> float:
        """Share of the pictures whose largest logit is the label."""
        answers = np.load(self.expected[version])
        return float((answers[:, 0].argmax(axis=1) == np.load(self.labels)).mean())


def model_folder(name: str, version: str = "1.0.0", format: str = "legacy", *options: str) -> Path:
    """The model folder of one recipe call, made now if it is not there. Shared: copy it before changing it."""
    return _entry(Recipe(name, version, format, options)) / "folder"


def heldout(name: str, *versions: str, format: str = "legacy") -> HeldOut:
    """Held-out pictures of a recipe with the reference outputs of these versions."""
    folders = {version: _entry(Recipe(name, version, format)) / "heldout" for version in versions or ("1.0.0",)}
    first = next(iter(folders.values()))
    expected = {version: folder / f"expected-{version}.npy" for version, folder in folders.items()}
    return HeldOut(first / "inputs.npy", first / "labels.npy", expected)


def make_all(recipes: list[Recipe], done: Callable[[Recipe], None] = lambda _: None) -> None:
    """Make several at once, as many as there are processors; `done` is told each, in the order given."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for recipe, _ in zip(recipes, pool.map(_entry, recipes), strict=True):
            done(recipe)


def run_recipe(recipe: Recipe, out: Path) -> Path:
    """Run a recipe now, kept nowhere; its model folder. Raises AssertionError with what it said."""
    done = subprocess.run(
        recipe.command(out), capture_output=True, text=True, timeout=RECIPE_TIMEOUT_S, check=False, cwd=out
    )
    assert done.returncode == 0, f"{recipe} ended with {done.returncode}: {done.stderr[-2000:]}"
    return out / "folder"


def _entry(recipe: Recipe) -> Path:
    stem = "-".join([recipe.name, recipe.version, recipe.format, *recipe.options])
    stem = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in stem)
    entry = CACHE / f"{stem}.{_key(recipe.name)}"
    if entry.exists():
        return entry
    with _lock(stem):
        if not entry.exists():
            for older in CACHE.glob(f"{stem}.*[!k]"):  # made by an older recipe; .lock stays
                shutil.rmtree(older)
            making = CACHE / f"making-{stem}"  # a kill leaves it behind; the next one begins with removing it
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            try:
                run_recipe(recipe, making)
                making.rename(entry)
            finally:
                shutil.rmtree(making, ignore_errors=True)
    return entry


@contextmanager
def _lock(stem: str) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def _key(name: str) -> str:
    """Twelve digits of a hash of everything that decides the bytes."""
    models = ROOT / "models"
    files = [*models.glob("*.py"), *(models / name).glob("*.py"), *(ROOT / "edge_agent/worker/engines").glob("*.py")]
    files.append(ROOT / "requirements" / ("dev.txt" if name == "tiny_numpy" else "engine-paddle.txt"))
    whole = hashlib.sha256(platform.python_version().encode() + _cpu())
    for path in sorted(files):
        whole.update(path.name.encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()[:12]


def _cpu() -> bytes:
    """The CPU's model and features: another one may round differently."""
    with open("/proc/cpuinfo", "rb") as info:
        return b"".join(sorted({line for line in info if line.startswith((b"model name", b"flags", b"Features"))}))
