"""The bare engine: one process that imports, loads and runs a model folder as a worker does. No agent, no HTTP.

Runs in the engine's interpreter: `.venv-paddle/bin/python -m tests.bench.bare FOLDER`. Prints one line of JSON after
its first run, then one for each line on its standard input: how often it ran in that many seconds. Ends with its input.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STARTED_S = time.perf_counter()

import edge_agent.worker.__main__  # noqa: E402,F401  the worker's first import: it sets the number of threads

BLOCK = 16  # runs between two looks at the clock


def load(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """The engine with the folder's model in it, one input as it is sent over HTTP, and what each step took."""
    import numpy as np

    from edge_agent.worker.engines import make_engine
    from edge_agent.worker.engines.base import ModelFiles, TensorSpec

    description = json.loads((folder / "snapshot.json").read_text())
    profile = description["engines"][0]
    engine = make_engine(profile["engine"])
    imported_s = time.perf_counter()
    specs = [
        tuple(TensorSpec(one["name"], one["dtype"], tuple(one["shape"])) for one in description[side])
        for side in ("inputs", "outputs")
    ]
    program, parameters = (os.open(folder / profile[role], os.O_RDONLY) for role in ("program", "parameters"))
    options = {"threads": profile["threads"], "onednn": profile["onednn"]}
    engine.load(ModelFiles(profile["format"], program, parameters), specs[0], specs[1], options)
    os.close(program)
    os.close(parameters)
    loaded_s = time.perf_counter()
    golden = description["golden"]["inputs"][specs[0][0].name]
    value = np.ascontiguousarray(np.load(folder / golden)[0])
    engine.run([value])
    took = {
        "import_s": imported_s - STARTED_S,
        "load_s": loaded_s - imported_s,
        "first_run_s": time.perf_counter() - loaded_s,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "paddle": engine.version},
    }
    return engine, value, took


def runs_per_s(run: Callable[[], Any], seconds: float) -> float:
    """How often `run` ends in a second."""
    count, started = 0, time.perf_counter()
    end = started + seconds
    while (now := time.perf_counter()) < end:
        for _ in range(BLOCK):
            run()
        count += BLOCK
    return count / (now - started)


def pss_bytes() -> int:
    """This process's proportional share of memory."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("smaps_rollup has no Pss")


def main() -> None:
    """Load, say so, then run on demand."""
    engine, value, took = load(Path(sys.argv[1]))
    predictor = engine._predictor  # the loop without the copies in and out: nothing else offers it
    print(json.dumps({**took, "pss_bytes": pss_bytes()}), flush=True)
    for line in sys.stdin:
        seconds = float(line)
        whole = runs_per_s(lambda: engine.run([value]), seconds)
        only_run = runs_per_s(predictor.run, seconds / 4)
        print(json.dumps({"runs_per_s": whole, "predictor_runs_per_s": only_run}), flush=True)


if __name__ == "__main__":
    main()
