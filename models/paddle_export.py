"""Exports a Paddle layer in either format and runs it with the engine that devices run.

Which layer, and what it learned, is the recipes' matter.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the engine's interpreter does not have the project


def choose_format(arguments: list[str]) -> None:
    """Set what paddle and its numeric libraries read when they are imported; so --format is looked for beforehand.

    One thread: sums have one order then, so that the same seed gives the same bytes (and small models train faster).
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--format", default="legacy")
    chosen, _ = parser.parse_known_args(arguments)
    if "paddle" in sys.modules:
        raise RuntimeError("paddle was imported before its format was chosen")
    os.environ["FLAGS_enable_pir_api"] = "1" if chosen.format == "pir" else "0"  # noqa: SIM112  paddle reads this spelling
    os.environ.setdefault("GLOG_minloglevel", "2")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    from edge_agent.worker.engines import paddle_engine  # noqa: F401  imports paddle without its remark on ccache


def export(layer: Any, input_spec: list[Any], folder: Path, name: str) -> tuple[str, str]:
    """Save program and parameters below folder; their names relative to the folder's parent."""
    import paddle

    layer.eval()
    folder.mkdir(parents=True, exist_ok=True)
    paddle.jit.save(layer, str(folder / name), input_spec=input_spec)
    suffix = ".json" if (folder / f"{name}.json").exists() else ".pdmodel"
    if suffix == ".pdmodel":
        _drop_call_stacks(folder / f"{name}.pdmodel")
    for extra in folder.glob(f"{name}.pdiparams.info"):
        extra.unlink()
    return f"{folder.name}/{name}{suffix}", f"{folder.name}/{name}.pdiparams"


def _drop_call_stacks(program: Path) -> None:
    """Take the exporting machine's paths out of a legacy program: they make its bytes depend on where it was made."""
    from paddle.base import core

    parsed = core.ProgramDesc(program.read_bytes())
    for number in range(parsed.num_blocks()):
        block = parsed.block(number)
        for position in range(block.op_size()):
            block.op(position).remove_attr("op_callstack")
    program.write_bytes(parsed.serialize_to_string())


class Exported:
    """An exported model in the device's own engine, so that reference outputs are what a device computes."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        """description: snapshot.json's content; its first engine entry is taken."""
        from edge_agent.worker.engines.base import ModelFiles, TensorSpec
        from edge_agent.worker.engines.paddle_engine import PaddleEngine

        entry = description["engines"][0]
        sides = [
            [TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"])) for spec in description[side]]
            for side in ("inputs", "outputs")
        ]
        with (folder / entry["program"]).open("rb") as program, (folder / entry["parameters"]).open("rb") as parameters:
            files = ModelFiles(entry["format"], program.fileno(), parameters.fileno())
            self._engine = PaddleEngine()
            self._engine.load(files, sides[0], sides[1], entry)

    def one_by_one(self, values: np.ndarray) -> np.ndarray:
        """Outputs of each row run alone, stacked: shape (rows, 1, ...)."""
        rows = [self._engine.run([np.ascontiguousarray(values[row : row + 1])])[0] for row in range(len(values))]
        return np.stack(rows)
