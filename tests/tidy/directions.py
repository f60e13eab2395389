"""Which room may import which: imports point down only, and some rooms know less still. Other rules are in `rules`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping

from tests.tidy.source import Finding, Source

# Lowest first. A room imports from rooms before it, never from later ones.
ORDER = (
    "contract", "folders", "core", "store", "trust", "offer", "worker", "config", "logs", "front", "sync", "site",
    "runtime",
    "client", "story", "cli_text", "doctor", "redaction", "diagnosis", "factory_command", "cli",
)  # fmt: skip

# Rooms that may see less than everything below them, with the reason that the message gives.
ONLY = {
    "contract": ((), "the language of both sides knows neither"),
    "core": (("contract",), "decisions are pure"),
    "folders": (("contract",), "paths of sockets, nothing of the agent"),
    "store": (("contract", "folders"), "rows and files, no decisions"),
    "trust": (("contract",), "bytes in, verified object out"),
    "offer": (("contract",), "bytes in, entries out"),
    "worker": ((), "its interpreter has numpy and an engine, nothing of the agent"),
    "front": (("contract", "worker", "logs", "config"), "it parses hostile requests and must have nothing to lose"),
    "sync": (("contract", "worker", "logs", "config"), "it parses the network and must have nothing to lose"),
}
CORE_STDLIB = {
    "__future__",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "math",
    "operator",
    "typing",
}
WORKER_FOREIGN = {"numpy", "paddle", "paddlelite"}

# The same for the rooms of cloud_sync.
CLOUD_ORDER = (
    "limits", "core", "store", "signing", "sparing", "logs", "client", "publish", "folder", "repository", "coordinator",
    "mqtt", "api", "service", "cli", "operator_cli",
)  # fmt: skip
CLOUD_ONLY = {
    "core": (("limits",), "decisions are pure"),
    "store": (("limits", "core"), "rows, no decisions"),
    "client": ((), "it knows the coordinator from outside alone"),
    "publish": (("client",), "the publisher's machine has no coordinator"),
    "repository": (("limits", "publish"), "signed files; which device may have them is decided above"),
    "api": (("limits", "core", "store", "repository", "coordinator"), "what is published is decided elsewhere"),
    "operator_cli": (("client", "publish"), "operators ask the coordinator over HTTP"),
}
CLOUD_MAY_USE = ("edge_agent.contract",)
REHEARSAL = ("cloud_sync/operator_cli/rehearse.py", "edge_agent.core")  # it has to be the shipped decisions


def imports_of(source: Source) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported, wherever it stands in the file; relative ones made absolute."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = source.module.split(".")
            if not source.path.endswith("__init__.py"):
                package = package[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def point_down(source: Source) -> Iterator[Finding]:
    """Imports between the rooms of edge_agent and from cloud_sync into it."""
    if not source.is_python or source.folder not in ("edge_agent", "cloud_sync"):
        return
    for line, name in imports_of(source):
        in_cloud = source.folder == "cloud_sync"
        said = _cloud_fault(source, name) if in_cloud else _agent_fault(source.module, name)
        if said:
            yield Finding(source.path, line, said)


def core_is_pure(source: Source) -> Iterator[Finding]:
    """core imports data types alone: no clock, no chance, no files, no tasks."""
    if not source.is_python or not (source.in_folder("edge_agent/core") or source.in_folder("cloud_sync/core")):
        return
    for line, name in imports_of(source):
        top = name.split(".")[0]
        if top not in ("edge_agent", "cloud_sync") and top not in CORE_STDLIB:
            yield Finding(source.path, line, f"core imports {top}: let time, chance and facts come in as arguments")


def worker_is_alone(source: Source) -> Iterator[Finding]:
    """The worker runs where only numpy and an engine are installed."""
    if not source.is_python or not source.in_folder("edge_agent/worker"):
        return
    for line, name in imports_of(source):
        top = name.split(".")[0]
        if top != "edge_agent" and top not in sys.stdlib_module_names and top not in WORKER_FOREIGN:
            said = f"the worker imports {top}, which the engine's interpreter does not have: use the standard library"
            yield Finding(source.path, line, said)


def _cloud_fault(source: Source, name: str) -> str | None:
    if name.startswith("cloud_sync."):
        return _order_fault(source.module, name, CLOUD_ORDER, CLOUD_ONLY)
    allowed = name.startswith(tuple(f"{room}." for room in CLOUD_MAY_USE)) or name in CLOUD_MAY_USE
    rehearses = source.path == REHEARSAL[0] and name.startswith(REHEARSAL[1])
    if not name.startswith("edge_agent") or allowed or rehearses:
        return None
    return f"the cloud imports {name}: of the agent it may know edge_agent.contract alone"


def _agent_fault(module: str, name: str) -> str | None:
    if name.startswith("cloud_sync"):
        return f"the device imports {name}: what both sides say lives in edge_agent.contract"
    return _order_fault(module, name, ORDER, ONLY)


def _order_fault(
    module: str, name: str, order: tuple[str, ...], only: Mapping[str, tuple[tuple[str, ...], str]]
) -> str | None:
    """What is wrong with this import from one room of a package into another."""
    parts, here = name.split("."), module.split(".")
    if parts[0] != here[0] or len(here) < 2:
        return None
    room, target = here[1], parts[1]
    if target == room or target.isupper():  # a constant of the package itself
        return None
    for one in (room, target):
        if one not in order:
            return f"{here[0]}.{one} is in no order yet: say in tests/tidy/directions.py what it lies above"
    if room in only and target not in only[room][0]:
        return f"{room} imports {target}: {only[room][1]}"
    if order.index(target) > order.index(room):
        return f"{room} imports {target}, which lies above it: pass in what is needed, or move it down"
    return None
