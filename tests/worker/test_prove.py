"""The one-shot proof, by path, as a publisher runs it. What packing makes of it is `tests/publish`'."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness.agent import ROOT
from tests.worker.stand import planned
from tests.worker.subjects import NUMPY, NUMPY_OLD, Subject, golden_file

pytestmark = pytest.mark.parametrize("subject", [NUMPY, NUMPY_OLD], indirect=True, ids=lambda subject: subject.name)
MAIN = ROOT / "edge_agent" / "worker" / "__main__.py"


def prove(subject: Subject, model: Path, **changes: Any) -> tuple[int, dict[str, Any]]:
    """Exit code and document."""
    with planned(model) as plan:
        descriptor = {**plan.request_fields(), "folder": str(model), "engine": subject.engine, **changes}
    path = model / "descriptor.json"
    path.write_text(json.dumps(descriptor))
    command = [subject.python, "-I", str(MAIN), "prove", "--descriptor", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout)


def test_a_good_model_is_proven_and_its_outputs_written(subject: Subject, tmp_path: Path) -> None:
    folder, out = subject.good(tmp_path / "good"), tmp_path / "out"
    out.mkdir()
    code, document = prove(subject, folder, outputs_to=str(out))
    assert (code, document["ok"], document["proof"]["passed"]) == (0, True, True)
    np.testing.assert_allclose(np.load(out / "y.npy"), np.load(golden_file(folder, "outputs")), rtol=1e-5, atol=1e-6)


def test_what_is_not_proven_says_why(subject: Subject, tmp_path: Path) -> None:
    code, document = prove(subject, subject.with_trouble("wrong golden", tmp_path / "bad"))
    assert (code, document["ok"], document["reason"]) == (1, False, "proof")
    assert "off by 0.01" in document["detail"]


def test_a_descriptor_of_no_use(subject: Subject, tmp_path: Path) -> None:
    folder = subject.good(tmp_path / "good")
    assert prove(subject, folder, folder=str(tmp_path / "nowhere"))[0] == 2
    code, document = prove(subject, folder, engine="tensorflow")
    assert (code, document["reason"]) == (1, "engine_missing")


def test_the_engines_interpreter_needs_nothing_of_the_agents(subject: Subject) -> None:
    """Of our own code only the worker's; nothing of the agent's libraries, even where they could be imported."""
    script = (
        "import runpy, sys\n"
        "runpy.run_path(sys.argv[1])\n"
        "import edge_agent.worker.zygote\n"
        "print(*sorted(n for n in sys.modules if n.split('.')[0] in ('edge_agent', 'msgspec', 'structlog', 'tuf')))"
    )
    command = [subject.python, "-I", "-c", script, str(MAIN)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert "edge_agent.worker.zygote" in loaded
    assert all(name == "edge_agent" or name.startswith("edge_agent.worker") for name in loaded)
