"""A model of 100 MB whose inference costs next to nothing: what is measured with it is how its bytes come. Other models
are made by recipes or by `tests.tiny_model`.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny_model import write_tiny_model

NAME = "ballast"
HIDDEN = 5_000  # two layers so wide, with 25 million weights between them: 100.2 MB
TOLERANCE = {"rtol": 1e-1, "atol": 1e-1}  # sums of 5,000 products come out differently with each order
ENGINE: dict[str, Any] = {
    "engine": "numpy",
    "format": "holdfast-numpy",
    "program": "model.json",
    "parameters": "model.bin",
    **TOLERANCE,
}


def write_ballast(folder: Path, version: str, number: int) -> Path:
    """Write the model folder; gives it. number: other weights, so that no chunk of another version can be used."""
    write_tiny_model(folder, name=NAME, version=version, release=number + 1, engines=[ENGINE])
    chance = np.random.default_rng(number)
    sizes = (4, HIDDEN, HIDDEN, 2)
    values = np.load(folder / "golden" / "x.npy")
    layers: list[dict[str, Any]] = []
    with (folder / "model.bin").open("wb") as stream:
        for inputs, outputs in itertools.pairwise(sizes):
            weights = chance.standard_normal((inputs, outputs), dtype="<f4") / np.float32(np.sqrt(inputs))
            biases = chance.standard_normal(outputs, dtype="<f4")
            stream.write(weights.tobytes() + biases.tobytes())
            values = np.maximum(values, 0) if layers else values
            layers += [{"op": "relu"}] if layers else []
            values = values @ weights + biases
            layers.append({"op": "dense", "inputs": inputs, "outputs": outputs})
    (folder / "model.json").write_text(json.dumps({"format": 1, "layers": layers}))
    np.save(folder / "golden" / "y.npy", values.astype("<f4"))
    return folder
