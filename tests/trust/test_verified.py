"""Verified is a type: nothing but verification makes one, and the trust room touches nothing of the world."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.contract.errors import Bug
from edge_agent.trust.chain import verify_admitted
from edge_agent.trust.verified import VerifiedManifest
from tests.samples import manifest_raw
from tests.trust.authority import Authority

PROJECT = Path(__file__).parents[2]
RAW = manifest_raw()


def sources() -> Iterator[Path]:
    for package in ("edge_agent", "cloud_sync"):
        yield from (PROJECT / package).rglob("*.py")


def test_a_verified_manifest_cannot_be_built_without_verification() -> None:
    authority = Authority()
    good = verify_admitted(authority.evidence(RAW), RAW, authority.pinned)
    fields = {name: getattr(good, name) for name in ("manifest", "raw", "digest", "evidence", "versions", "floors")}
    with pytest.raises(Bug):
        VerifiedManifest(**fields, verification=None)
    with pytest.raises(TypeError):
        VerifiedManifest(**fields)
    with pytest.raises(AttributeError):
        good.raw = b"other"  # type: ignore[misc]


def test_one_place_builds_verified_manifests() -> None:
    sites = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)
            if name == "VerifiedManifest":
                sites.append(path.relative_to(PROJECT).as_posix())
    assert sites == ["edge_agent/trust/chain.py"]


def test_only_the_chain_holds_the_token() -> None:
    holders = {path.relative_to(PROJECT).as_posix() for path in sources() if "VERIFICATION" in path.read_text()}
    assert holders == {"edge_agent/trust/chain.py", "edge_agent/trust/verified.py"}


def test_the_trust_room_reads_no_file_no_clock_and_no_socket() -> None:
    banned = {
        "os",
        "io",
        "pathlib",
        "socket",
        "sqlite3",
        "time",
        "random",
        "secrets",
        "subprocess",
        "asyncio",
    }
    for path in (PROJECT / "edge_agent" / "trust").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not banned & {alias.name.partition(".")[0] for alias in node.names}, path
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in banned, path
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("now", "utcnow", "today") or path.name == "verified.py", path
            if isinstance(node, ast.Name):
                assert node.id != "open", path


def test_the_trust_room_imports_of_our_code_the_contract_alone() -> None:
    ours = "[m for m in sys.modules if m.startswith(('edge_', 'cloud_'))]"
    code = f"import sys, edge_agent.trust.chain; print(*{ours})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=PROJECT
    )
    for module in done.stdout.split():
        assert module == "edge_agent" or module.startswith(("edge_agent.contract", "edge_agent.trust")), module
