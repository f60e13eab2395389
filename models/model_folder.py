"""Writes the model folder that `fleet snapshot pack` reads, around a model's own files. Training is the recipes'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN_COUNT = 16


def write_model_folder(
    out: Path,
    *,
    description: dict[str, Any],
    golden_inputs: dict[str, np.ndarray],
    golden_outputs: dict[str, np.ndarray],
    card: str,
) -> None:
    """Golden arrays have the shape (count, *tensor shape with batch 1). The model's own files are there already."""
    golden = out / "golden"
    golden.mkdir(parents=True, exist_ok=True)
    names: dict[str, dict[str, str]] = {"inputs": {}, "outputs": {}}
    for side, arrays in (("inputs", golden_inputs), ("outputs", golden_outputs)):
        for name, value in arrays.items():
            np.save(golden / f"{name}.npy", value, allow_pickle=False)
            names[side][name] = f"golden/{name}.npy"
    count = len(next(iter(golden_inputs.values())))
    document = {**description, "golden": {"count": count, **names}}
    (out / "snapshot.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (out / "card.md").write_text(card, encoding="utf-8")
