"""Engines behind one small port; which one a worker has is chosen when its fork server starts.

Nothing is loaded here.
"""

from __future__ import annotations

from edge_agent.worker.engines.base import Engine, EngineUnavailable


def make_engine(name: str) -> Engine:
    """The engine with this name, imported now. Raises EngineUnavailable with what is missing."""
    if name == "numpy":
        from edge_agent.worker.engines.numpy_engine import NumpyEngine

        return NumpyEngine()
    if name == "paddle":
        from edge_agent.worker.engines.paddle_engine import PaddleEngine

        return PaddleEngine()
    raise EngineUnavailable("no engine is called %r (there are numpy and paddle)" % name)
