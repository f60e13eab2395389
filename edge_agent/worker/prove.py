"""One shot: load a model from a folder, run its golden vectors, print one JSON document. Publishers pack with it.

Descriptor: the fields of a worker's load request, with "folder" and files as names below it. With "outputs_to" the
outputs for the golden inputs are written there as .npy files (one per output, stacked) instead of being compared.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Dict, List

import numpy as np

from edge_agent.worker.engines import make_engine
from edge_agent.worker.engines.base import EngineUnavailable
from edge_agent.worker.model import LoadOutcome, load_model


def prove(descriptor_path: str) -> int:
    """0: proven; 1: not, with reason and detail in the document; 2: the descriptor is of no use."""
    try:
        with open(descriptor_path, encoding="utf-8") as source:
            descriptor = json.load(source)
        folder = str(descriptor["folder"])
        names = [str(entry["name"]) for entry in descriptor["files"]]
        fds = [os.open(os.path.join(folder, name), os.O_RDONLY | os.O_CLOEXEC) for name in names]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _print(2, {"ok": False, "reason": "malformed", "detail": "descriptor: %s" % error})
    try:
        engine = make_engine(str(descriptor.get("engine")))
    except EngineUnavailable as error:
        return _print(1, {"ok": False, "reason": "engine_missing", "detail": str(error)})
    try:
        loaded, fields = load_model(engine, descriptor, fds)
    except LoadOutcome as outcome:
        return _print(1, {"ok": False, "reason": outcome.word, "detail": outcome.detail})
    if descriptor.get("outputs_to"):
        _write_outputs(descriptor, loaded, engine)
    return _print(0, dict(fields, ok=True))


def _write_outputs(descriptor: Dict[str, Any], loaded: Any, engine: Any) -> None:
    rows: List[List[np.ndarray]] = [
        engine.run([np.ascontiguousarray(value[vector]) for value in loaded.golden.inputs])
        for vector in range(loaded.golden.vectors)
    ]
    for position, spec in enumerate(loaded.outputs):
        path = os.path.join(str(descriptor["outputs_to"]), spec.name + ".npy")
        np.save(path, np.stack([row[position] for row in rows]), allow_pickle=False)


def _print(code: int, document: Dict[str, Any]) -> int:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
    return code
