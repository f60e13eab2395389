"""Paddle inference behind the engine port: legacy and PIR programs, on the CPU. Verifying bytes is not its work."""

from __future__ import annotations

import os
import tempfile
import warnings
from typing import Any, Dict, List, Sequence

import numpy as np

from edge_agent.worker.engines.base import Engine, EngineUnavailable, LoadRefused, ModelFiles, TensorSpec

try:
    warnings.filterwarnings("ignore", message="No ccache found")
    import paddle
    from paddle import inference
except Exception as error:  # an engine may fail to import in any way: a missing library, a wrong CPU
    raise EngineUnavailable("paddle cannot be imported: %s" % str(error).splitlines()[-1:]) from error


class PaddleEngine(Engine):
    """One Predictor. A PIR program has to have a name that ends in .json, so it is reached through a symbolic link."""

    name = "paddle"
    version = str(paddle.__version__)

    def __init__(self) -> None:
        self._predictor: Any = None
        self._inputs: List[Any] = []
        self._outputs: List[Any] = []
        self._device = "cpu"

    def load(
        self,
        files: ModelFiles,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        options: Dict[str, Any],
    ) -> None:
        """Raises LoadRefused with paddle's own line, or MemoryError; damaged files may end the process instead."""
        if files.format not in ("legacy", "pir") or files.parameters_fd < 0:
            raise LoadRefused("paddle loads formats legacy and pir, with parameters, not %r" % files.format)
        try:
            with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
                config = inference.Config(*_paths(folder, files))
                _configure(config, files.format, options)
                predictor = inference.create_predictor(config)
            self._device = "gpu:%d" % config.gpu_device_id() if config.use_gpu() else "cpu"
            names_in, names_out = predictor.get_input_names(), predictor.get_output_names()
        except MemoryError:  # std::bad_alloc: a damaged length ran into the bound on this process
            raise
        except Exception as error:  # paddle raises its own types and plain RuntimeError alike
            raise LoadRefused("paddle refused the model: %s" % _first_line(error)) from error
        if (len(names_in), len(names_out)) != (len(inputs), len(outputs)):
            raise LoadRefused(
                "the program has %d inputs and %d outputs, the manifest %d and %d"
                % (len(names_in), len(names_out), len(inputs), len(outputs))
            )
        self._predictor = predictor
        self._inputs = [predictor.get_input_handle(name) for name in names_in]
        self._outputs = [predictor.get_output_handle(name) for name in names_out]

    def run(self, arrays: List[np.ndarray]) -> List[np.ndarray]:
        """Arrays in, fresh arrays out. Raises RuntimeError from paddle."""
        for handle, value in zip(self._inputs, arrays):
            handle.copy_from_cpu(value)
        self._predictor.run()
        return [handle.copy_to_cpu() for handle in self._outputs]

    def device(self) -> str:
        """Read back from the configuration after the load: a CPU wheel silently ignores enable_use_gpu."""
        return self._device


def _paths(folder: str, files: ModelFiles) -> List[str]:
    program = os.path.join(folder, "model.json" if files.format == "pir" else "model.pdmodel")
    parameters = os.path.join(folder, "model.pdiparams")
    os.symlink("/proc/self/fd/%d" % files.program_fd, program)
    os.symlink("/proc/self/fd/%d" % files.parameters_fd, parameters)
    return [program, parameters]


def _configure(config: Any, program_format: str, options: Dict[str, Any]) -> None:
    config.disable_glog_info()
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(int(options.get("threads", 1)))
    if options.get("onednn"):
        config.enable_mkldnn()
    elif hasattr(config, "disable_mkldnn"):
        config.disable_mkldnn()
    if program_format == "legacy":  # the pass does not exist for PIR programs
        config.enable_memory_optim()
    config.switch_ir_optim(True)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("[operator", "[Hint", "----"))]
    useful = [line for line in lines if "Error:" in line or line.startswith("(")] or lines
    return (useful[-1] if useful else type(error).__name__)[:300]
