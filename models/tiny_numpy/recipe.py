"""A small network for the numpy engine, trained by plain numpy in a moment; it can misbehave on purpose.

    .venv/bin/python models/tiny_numpy/recipe.py --version 1.0.0 --out DIR [--fault run:slow:50] [--heldout DIR]

Same input, output and meaning as `digits_lenet`, but its pictures are drawn, not handwritten. For fault campaigns.
Packing, signing and serving are not done here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = (
    "1"  # read when numpy is imported: sums have one order, bytes are the same each time
)

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from model_folder import GOLDEN_COUNT, write_model_folder

from edge_agent.worker.engines.base import ModelFiles, TensorSpec
from edge_agent.worker.engines.numpy_engine import KINDS, NumpyEngine

DATA_SEED = 20260103  # one set of pictures for all versions: answers can be compared
TRAINED_ON, HELD_OUT = 2000, 200
HIDDEN, STEPS, BATCH, RATE = 32, 1500, 100, 0.5

# 3 x 5 dots per digit, drawn 6 x 5 dots large somewhere in 8 x 8.
GLYPHS = """
111 010 111 111 101 111 111 111 111 111
101 110 001 001 101 100 100 001 101 101
101 010 111 111 111 111 111 010 111 111
101 010 100 001 001 001 101 010 101 001
111 111 111 111 001 111 111 010 111 111
"""

CARD = """# {name} {version}

Two dense layers (64, {hidden}, 10) for the numpy engine, trained {steps} steps with seed {seed}. For tests and fault
campaigns.

- **Data**: {trained_on} drawn digits of 8 x 8 pixels, moved and noisy, made here; {held_out} more are held out.
- **Accuracy**: {accuracy:.2%} of the held-out pictures, measured by this recipe. Handwriting it has never seen.
- **Input**: `image`, FP32, (batch, 1, 8, 8), 0 to 1. **Output**: `logits`, FP32, (batch, 10); the largest one is
  the digit.
- **Misbehaves on purpose**: {faults}.
- **Licence**: the project's.
"""


def draw_pictures(count: int, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (count, 1, 8, 8) float32 and labels (count,) int64."""
    rows = [line.split() for line in GLYPHS.split("\n") if line]
    glyphs = np.array([[[int(dot) for dot in rows[y][digit]] for y in range(5)] for digit in range(10)])
    labels = chance.integers(10, size=count)
    pictures = chance.random((count, 1, 8, 8)) * 0.4
    for picture, label in zip(pictures, labels, strict=True):
        left, top = chance.integers(3), chance.integers(4)
        picture[0, top : top + 5, left : left + 6] += glyphs[label].repeat(2, axis=1) * 0.6
    return pictures.astype("<f4"), labels


def train(pictures: np.ndarray, labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Weights and biases of both layers, by gradient descent on the cross entropy."""
    chance = np.random.default_rng(seed)
    flat, wanted = pictures.reshape(len(pictures), -1), np.eye(10, dtype="<f4")[labels]
    first, second = chance.normal(0, 0.2, (64, HIDDEN)).astype("<f4"), chance.normal(0, 0.2, (HIDDEN, 10)).astype("<f4")
    bias, offset = np.zeros(HIDDEN, "<f4"), np.zeros(10, "<f4")
    for _ in range(STEPS):
        rows = chance.integers(len(flat), size=BATCH)
        x = flat[rows]
        hidden = np.maximum(x @ first + bias, 0)
        logits = hidden @ second + offset
        exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
        error = (exponent / exponent.sum(axis=1, keepdims=True) - wanted[rows]) / np.float32(BATCH)
        back = (error @ second.T) * (hidden > 0)
        second -= RATE * hidden.T @ error
        offset -= RATE * error.sum(axis=0)
        first -= RATE * x.T @ back
        bias -= RATE * back.sum(axis=0)
    return [first, bias, second, offset]


def write_files(folder: Path, weights: list[np.ndarray], faults: list[dict[str, Any]]) -> None:
    """model.json and model.bin, as the engine's first lines describe them."""
    folder.mkdir(parents=True, exist_ok=True)
    layers: list[dict[str, Any]] = [
        {"op": "dense", "inputs": 64, "outputs": HIDDEN},
        {"op": "relu"},
        {"op": "dense", "inputs": HIDDEN, "outputs": 10},
        *faults,
    ]
    (folder / "model.json").write_text(json.dumps({"format": 1, "layers": layers}) + "\n", encoding="utf-8")
    (folder / "model.bin").write_bytes(b"".join(part.astype("<f4").tobytes() for part in weights))


def answers_of(folder: Path, pictures: np.ndarray) -> np.ndarray:
    """What the device's own engine answers, one picture at a time: (pictures, 1, 10)."""
    engine = NumpyEngine()
    image, logits = TensorSpec("image", "FP32", (-1, 1, 8, 8)), TensorSpec("logits", "FP32", (-1, 10))
    with (folder / "model.json").open("rb") as program, (folder / "model.bin").open("rb") as parameters:
        engine.load(ModelFiles("holdfast-numpy", program.fileno(), parameters.fileno()), [image], [logits], {})
    return np.stack([engine.run([pictures[row : row + 1]])[0] for row in range(len(pictures))])


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """snapshot.json without its golden part. Memory is measured when it is packed, by the device's own worker."""
    return {
        "name": options.name,
        "version": options.version,
        "release": options.release,
        "interface": "digits-8x8-v1",
        "compatible": ["*"],
        "inputs": [{"name": "image", "dtype": "FP32", "shape": [-1, 1, 8, 8]}],
        "outputs": [{"name": "logits", "dtype": "FP32", "shape": [-1, 10]}],
        "engines": [
            {
                "engine": "numpy",
                "format": "holdfast-numpy",
                "program": "model/model.json",
                "parameters": "model/model.bin",
                "threads": 1,
                "onednn": False,
                "rtol": 1e-5,
                "atol": 1e-5,
            }
        ],
    }


def parse_version(text: str) -> str:
    """A version of three numbers."""
    parts = text.split(".")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 1.0.0")
    return text


def release_of(version: str) -> int:
    """A release number that grows with the version: 1.2.3 is 10203."""
    major, minor, patch = (int(part) for part in version.split("."))
    return max(1, major * 10_000 + minor * 100 + patch)


def parse_fault(text: str) -> dict[str, Any]:
    """WHEN:KIND or WHEN:KIND:AMOUNT as a layer, in words that the engine knows."""
    when, kind, amount = [*text.split(":"), "0", "0"][:3]
    if when not in ("load", "run", "poison") or kind not in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r}: a fault has to say when and what")
    return {"op": "fault", "when": when, "kind": kind, "amount": float(amount)}


def read_arguments() -> argparse.Namespace:
    """The command line, with what follows from the version filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="tiny")
    parser.add_argument("--version", type=parse_version, default="1.0.0")
    parser.add_argument("--release", type=int, help="default: from the version, 1.2.3 is 10203")
    parser.add_argument("--seed", type=int, help="default: the release, so that each version answers differently")
    parser.add_argument(
        "--fault",
        type=parse_fault,
        action="append",
        default=[],
        metavar="WHEN:KIND[:AMOUNT]",
        help="misbehave: load, run or poison; hang, abort, segfault, exit, nan, garbage, slow, grow or raise",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, help="also write held-out inputs, labels and this version's answers")
    options = parser.parse_args()
    options.release = options.release or release_of(options.version)
    options.seed = options.release if options.seed is None else options.seed
    return options


def main() -> None:
    """Write the model folder. Golden outputs are those of the healthy network, whatever the faults."""
    options = read_arguments()
    pictures, labels = draw_pictures(TRAINED_ON + HELD_OUT, np.random.default_rng(DATA_SEED))
    held, held_labels = pictures[TRAINED_ON:], labels[TRAINED_ON:]
    weights = train(pictures[:TRAINED_ON], labels[:TRAINED_ON], options.seed)
    model = options.out / "model"
    write_files(model, weights, [])
    answers = answers_of(model, held)
    accuracy = float((answers[:, 0].argmax(axis=1) == held_labels).mean())
    write_files(model, weights, options.fault)
    faults = ", ".join(f"{fault['kind']} at {fault['when']}" for fault in options.fault) or "no"
    about = {"name": options.name, "version": options.version, "seed": options.seed, "faults": faults}
    numbers = {"hidden": HIDDEN, "steps": STEPS, "trained_on": TRAINED_ON, "held_out": HELD_OUT}
    write_model_folder(
        options.out,
        description=describe(options),
        golden_inputs={"image": held[:GOLDEN_COUNT, None]},
        golden_outputs={"logits": answers[:GOLDEN_COUNT]},
        card=CARD.format(**about, **numbers, accuracy=accuracy),
    )
    if options.heldout:
        options.heldout.mkdir(parents=True, exist_ok=True)
        np.save(options.heldout / "inputs.npy", held)
        np.save(options.heldout / "labels.npy", held_labels)
        np.save(options.heldout / f"expected-{options.version}.npy", answers)
    print(f"{options.name} {options.version}: {accuracy:.4f} of {HELD_OUT} held-out pictures")


if __name__ == "__main__":
    main()
