"""Exports a Paddle layer in either format and runs it as a device would. FLAGS_enable_pir_api is set before paddle is imported.

Which layer, and what it learned, is the recipes' matter.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np


def choose_format(arguments: list[str]) -> None:
    """Legacy programs need this flag before the first import of paddle, so it is read from the raw arguments."""
    is_pir = "pir" in arguments
    os.environ["FLAGS_enable_pir_api"] = "1" if is_pir else "0"
    os.environ.setdefault("GLOG_minloglevel", "2")
    if "paddle" in sys.modules:
        raise RuntimeError("paddle was imported before its format was chosen")


def export(layer: Any, input_spec: list[Any], folder: Path, name: str) -> tuple[str, str]:
    """Save program and parameters below folder; their names relative to the folder's parent."""
    import paddle

    layer.eval()
    folder.mkdir(parents=True, exist_ok=True)
    paddle.jit.save(layer, str(folder / name), input_spec=input_spec)
    suffix = ".json" if (folder / f"{name}.json").exists() else ".pdmodel"
    for extra in folder.glob(f"{name}.pdiparams.info"):
        extra.unlink()
    return f"{folder.name}/{name}{suffix}", f"{folder.name}/{name}.pdiparams"


class Exported:
    """An exported model, loaded as the device loads it (one thread, no oneDNN)."""

    def __init__(self, program: Path, parameters: Path) -> None:
        from paddle import inference

        config = inference.Config(str(program), str(parameters))
        config.disable_glog_info()
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(1)
        if hasattr(config, "disable_mkldnn"):
            config.disable_mkldnn()
        if program.suffix != ".json":  # the pass does not exist for PIR programs
            config.enable_memory_optim()
        self._predictor = inference.create_predictor(config)
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def __call__(self, value: np.ndarray) -> np.ndarray:
        """One run; value has the batch in front."""
        self._input.copy_from_cpu(np.ascontiguousarray(value))
        self._predictor.run()
        return self._output.copy_to_cpu()

    def one_by_one(self, values: np.ndarray) -> np.ndarray:
        """Outputs of each row run alone, stacked: shape (rows, 1, ...)."""
        return np.stack([self(values[row : row + 1]) for row in range(len(values))])
