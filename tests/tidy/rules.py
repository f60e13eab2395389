"""Style as rules with helpful messages: size, first sentences, bans. Which room may import which is in `directions`."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

from tests.tidy.source import Finding, Source

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
PRODUCT = ("edge_agent", "cloud_sync")

# In pieces, so that this file does not name what it bans.
REGISTRY_HOSTS = re.compile(
    "|".join(
        ("pyp" + r"i\.org", "pythonhosted" + r"\.org", "registry\\." + "npmjs", "bcebos" + r"\.com", "index" + "-url =")
    )
)
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:wo" + "rk|ro" + "ot|ho" + "me)/[a-zA-Z0-9_.-]+")
LEFTOVERS = re.compile(r"\b(?:FIX" + "ME|TO" + "DO|XX" + r"X)\b")

# Where a pause between two looks is right: (file, function). Everything else waits for an event or uses wait_until.
SLEEPS = {
    ("tests/harness/agent.py", "wait_until"),
    # What is counted is how often something happens in this time: no event ends it.
    ("tests/cloud/test_lying_broker.py", "test_who_is_kicked_out_again_and_again_waits_longer_each_time"),
}

Rule = Callable[[Source], Iterator[Finding]]


def says_its_room(source: Source) -> Iterator[Finding]:
    """The first docstring sentence says what lives in the file, another one what does not (who has it)."""
    if not source.is_python or not source.text.strip():
        return
    doc = ast.get_docstring(source.tree) or ""
    if not doc.split("\n\n")[0].strip():
        yield Finding(source.path, 1, "no docstring: say in one sentence what lives here, in a second what does not")
    elif source.folder in PRODUCT and len(re.findall(r"[.:;!?](?=\s|$)", doc)) < 2:
        yield Finding(source.path, 1, "the docstring has one sentence: add which neighbouring matter lives elsewhere")


def is_not_too_long(source: Source) -> Iterator[Finding]:
    """A reader can hold a file and a function in mind."""
    if not source.is_python:
        return
    if len(source.lines) > FILE_LINES_MAX:
        yield Finding(
            source.path, FILE_LINES_MAX, f"{len(source.lines)} lines, at most {FILE_LINES_MAX}: split by question"
        )
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                said = f"{node.name} has {length} lines, at most {FUNCTION_LINES_MAX}: pull a step out and name it"
                yield Finding(source.path, node.lineno, said)


def swallows_nothing(source: Source) -> Iterator[Finding]:
    """An unexpected error is never dropped in silence."""
    if not source.is_python:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and all(map(_is_nothing, node.body)):
            yield Finding(
                source.path, node.lineno, "a broad except that does nothing: name the error, or log and raise"
            )
        if isinstance(node, ast.Call) and _dotted(node.func).endswith("suppress") and any(map(_is_broad, node.args)):
            yield Finding(source.path, node.lineno, "suppress(Exception) drops our own bugs too: name the error")


def bounds_its_loops(source: Source) -> Iterator[Finding]:
    """`while True` says beside it or above it what ends it."""
    if not source.is_python:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and node.test.value:
            beside, above = source.lines[node.lineno - 1], source.lines[node.lineno - 2].strip()
            if "  # " not in beside and not above.startswith("#"):
                said = "a loop without end: write a comment beside it that names its bound, or count"
                yield Finding(source.path, node.lineno, said)


def waits_for_events(source: Source) -> Iterator[Finding]:
    """Tests wait for a condition with a deadline, never for a time to pass; the core knows no clock at all."""
    if not source.is_python or source.folder != "tests":
        return
    for function, call in _calls(source.tree):
        if _dotted(call.func) in ("time.sleep", "sleep") and (source.path, function) not in SLEEPS:
            said = "sleep as synchronisation: use wait_until of tests.harness.agent, or an event"
            yield Finding(source.path, call.lineno, said)


def uses_no_mocks(source: Source) -> Iterator[Finding]:
    """A fake is a real implementation of the port."""
    if not source.is_python:
        return
    for node in ast.walk(source.tree):
        named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        if any(name == "unittest.mock" or name.startswith("mock") for name in named):
            said = "mocks of our own parts test the mock: write a small real implementation of the port"
            yield Finding(source.path, node.lineno, said)


def names_no_machine(source: Source) -> Iterator[Finding]:
    """The project works wherever it is put, with whatever registry its user has."""
    for number, line in enumerate(source.lines, 1):
        if REGISTRY_HOSTS.search(line):
            yield Finding(source.path, number, "names a package registry: leave that to the user's own settings")
        if MACHINE_PATHS.search(line):
            said = "an absolute path of one machine: derive it from __file__, a setting or a temporary folder"
            yield Finding(source.path, number, said)


def is_finished(source: Source) -> Iterator[Finding]:
    """Work that is left is planned elsewhere, not hidden in a comment."""
    for number, line in enumerate(source.lines, 1):
        if LEFTOVERS.search(line):
            yield Finding(source.path, number, "a leftover: do it now, or take the note out and plan it")


def runs_on_old_python(source: Source) -> Iterator[Finding]:
    """The worker's interpreter may be Python 3.7: its syntax, and annotations that are never evaluated."""
    if not source.is_python or not (source.in_folder("edge_agent/worker") or source.path == "edge_agent/__init__.py"):
        return
    try:
        ast.parse(source.text, feature_version=(3, 7))
    except SyntaxError as error:
        yield Finding(
            source.path, error.lineno or 1, f"not Python 3.7: {error.msg}; the engine's interpreter may be that old"
        )
    needs_future = any(isinstance(node, ast.FunctionDef | ast.AnnAssign) for node in ast.walk(source.tree))
    if needs_future and "from __future__ import annotations" not in source.text:
        yield Finding(source.path, 1, "add `from __future__ import annotations`: Python 3.7 evaluates them otherwise")


RULES: tuple[Rule, ...] = (
    says_its_room,
    is_not_too_long,
    swallows_nothing,
    bounds_its_loops,
    waits_for_events,
    uses_no_mocks,
    names_no_machine,
    is_finished,
    runs_on_old_python,
)


def _is_broad(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Tuple):
        return any(map(_is_broad, node.elts))
    return node is None or (isinstance(node, ast.Name) and node.id in ("Exception", "BaseException"))


def _is_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass | ast.Continue) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _calls(tree: ast.AST, function: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Every call with the name of the function around it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call):
            yield function, node
        inner = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield from _calls(node, inner)
