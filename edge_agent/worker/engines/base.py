"""The port that every engine implements, and how it fails; what an engine computes is its own affair."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np


class EngineUnavailable(Exception):
    """The interpreter does not have this engine."""


class LoadRefused(Exception):
    """The engine does not take these model files."""


class TensorSpec(NamedTuple):
    """One input or output in manifest order; -1 = free dimension."""

    name: str
    dtype: str
    shape: Tuple[int, ...]


class ModelFiles(NamedTuple):
    """The model's format, and sealed descriptors of its program and its parameters."""

    format: str
    program_fd: int
    parameters_fd: int  # -1: none


class Engine:
    """One loaded model at most. Arrays come and go in manifest order; dtypes and shapes are checked by the caller."""

    name = ""
    version = ""

    def load(
        self,
        files: ModelFiles,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        options: Dict[str, Any],
    ) -> None:
        """Load from these (options: threads, onednn). Raises LoadRefused, MemoryError; may end the process."""
        raise LoadRefused("this engine loads nothing")

    def run(self, arrays: List[np.ndarray]) -> List[np.ndarray]:
        """Outputs for these inputs. Raises any exception; may end the process."""
        raise RuntimeError("nothing is loaded")

    def device(self) -> str:
        """Where it really runs: "cpu" or "gpu:N", read back from the engine, never the wish."""
        return "cpu"
