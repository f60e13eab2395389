"""A tiny model folder for the numpy engine, written in milliseconds; the engine itself is `edge_agent.worker`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def write_tiny_model(
    folder: Path,
    *,
    name: str = "tiny",
    version: str = "1.0.0",
    release: int = 1,
    seed: int = 1,
    first_layers: tuple[dict[str, Any], ...] = (),
    layers: tuple[dict[str, Any], ...] = (),
    golden_error: float = 0.0,
    hidden: int = 8,
    **changes: Any,
) -> Path:
    """Write snapshot.json and files of a 4 -> hidden -> 2 network; gives the folder.

    seed: other weights. first_layers, layers: more layers at the beginning and at the end (faults). golden_error:
    added to the golden outputs. changes: other fields of snapshot.json; None takes a field away.
    """
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    first, second = (chance.normal(size=shape).astype("<f4") for shape in ((4, hidden), (hidden, 2)))
    biases = chance.normal(size=hidden).astype("<f4"), chance.normal(size=2).astype("<f4")
    stack = [
        *first_layers,
        {"op": "dense", "inputs": 4, "outputs": hidden},
        {"op": "relu"},
        {"op": "dense", "inputs": hidden, "outputs": 2},
        *layers,
    ]
    (folder / "model.json").write_text(json.dumps({"format": 1, "layers": stack}))
    weights = np.concatenate([first.ravel(), biases[0], second.ravel(), biases[1]])
    (folder / "model.bin").write_bytes(weights.tobytes())
    inputs = chance.normal(size=(3, 1, 4)).astype("<f4")
    outputs = np.stack([np.maximum(row @ first + biases[0], 0) @ second + biases[1] for row in inputs])
    np.save(folder / "golden" / "x.npy", inputs)
    np.save(folder / "golden" / "y.npy", (outputs + golden_error).astype("<f4"))
    description = {
        "name": name,
        "version": version,
        "release": release,
        "interface": f"{name}-1",
        "compatible": ["x86_64"],
        "inputs": [{"name": "x", "dtype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "dtype": "FP32", "shape": [-1, 2]}],
        "engines": [
            {"engine": "numpy", "format": "holdfast-numpy", "program": "model.json", "parameters": "model.bin"}
        ],
        "golden": {"count": 3, "inputs": {"x": "golden/x.npy"}, "outputs": {"y": "golden/y.npy"}},
        **changes,
    }
    kept = {key: value for key, value in description.items() if value is not None}
    (folder / "snapshot.json").write_text(json.dumps(kept, indent=2))
    return folder
