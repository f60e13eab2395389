"""The whole project against all tidy rules. The rules themselves are tested in `test_rules`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.tidy.directions import core_is_pure, point_down, worker_is_alone
from tests.tidy.rules import RULES, Rule
from tests.tidy.source import ROOT, Source, all_sources

TRACKED_BYTES_MAX = 400_000  # the pinned requirements are the largest text


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return all_sources()


@pytest.mark.parametrize("rule", [*RULES, point_down, core_is_pure, worker_is_alone], ids=lambda rule: rule.__name__)
def test_every_file(rule: Rule, sources: list[Source]) -> None:
    findings = [str(finding) for source in sources for finding in rule(source)]
    if findings:
        pytest.fail("\n".join([rule.__doc__ or "", *findings]), pytrace=False)


def test_the_rules_see_the_project(sources: list[Source]) -> None:
    paths = {source.path for source in sources}
    assert {"Makefile", "pyproject.toml", "edge_agent/core/lifecycle.py", ".ci/run", "tests/tidy/test_tidy.py"} <= paths


def test_nothing_large_is_kept(sources: list[Source]) -> None:
    large = [f"{source.path}: {len(source.text)}" for source in sources if len(source.text) > TRACKED_BYTES_MAX]
    assert not large, "generated or large files do not belong into the repository"


@pytest.mark.parametrize(("package", "lives"), [("edge_agent.core", "lifecycle"), ("cloud_sync.core", "plan")])
def test_core_brings_nothing_of_the_world_with_it(package: str, lives: str) -> None:
    """In a fresh interpreter: what its imports import counts as well."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import importlib, pkgutil\n"
        "core = importlib.import_module(sys.argv[2])\n"
        "[importlib.import_module(f'{sys.argv[2]}.{m.name}') for m in pkgutil.iter_modules(core.__path__)]\n"
        "print(*sorted(sys.modules))"
    )
    command = [sys.executable, "-I", "-c", script, str(ROOT), package]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert f"{package}.{lives}" in loaded
    world = {
        "asyncio",
        "random",
        "secrets",
        "socket",
        "ssl",
        "sqlite3",
        "subprocess",
        "threading",
        "tempfile",
        "logging",
    }
    assert loaded & world == set()
    rooms = {name.split(".")[1] for name in loaded if name.startswith(("edge_agent.", "cloud_sync."))}
    assert rooms <= {"contract", "core", "limits"}
