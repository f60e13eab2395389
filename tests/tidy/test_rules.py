"""The tidy rules find what they are for, say what to do instead, and let right code pass."""

from __future__ import annotations

import pytest

from tests.tidy import directions, rules
from tests.tidy.rules import Rule
from tests.tidy.source import Source

ROOM = '"""What lives here. What does not."""\n'
HOST = "https://" + "pyp" + "i.org/simple"
PATH = "/wo" + "rk/main/file"

BAD = [
    (rules.says_its_room, "edge_agent/x.py", "x = 1\n", "no docstring"),
    (rules.says_its_room, "edge_agent/x.py", '"""Only one sentence."""\n', "add which neighbouring matter"),
    (rules.is_not_too_long, "models/x.py", "x = 1\n" * 401, "401 lines, at most 400"),
    (rules.is_not_too_long, "tests/x.py", "def f():\n" + "    x = 1\n" * 60, "f has 61 lines, at most 60"),
    (rules.swallows_nothing, "tests/x.py", "try:\n    f()\nexcept Exception:\n    pass\n", "name the error"),
    (rules.swallows_nothing, "tests/x.py", "try:\n    f()\nexcept:\n    '''nothing'''\n", "name the error"),
    (rules.swallows_nothing, "tests/x.py", "try:\n    f()\nexcept (OSError, Exception):\n    ...\n", "name the error"),
    (rules.swallows_nothing, "tests/x.py", "with contextlib.suppress(Exception):\n    f()\n", "name the error"),
    (rules.bounds_its_loops, "cloud_sync/x.py", "x = 1\nwhile True:\n    f()\n", "names its bound"),
    (rules.bounds_its_loops, "cloud_sync/x.py", "while 1:\n    f()\n", "names its bound"),
    (rules.waits_for_events, "tests/x.py", "import time\ndef f():\n    time.sleep(1)\n", "use wait_until"),
    (rules.waits_for_events, "tests/harness/agent.py", "def other():\n    time.sleep(1)\n", "use wait_until"),
    (rules.uses_no_mocks, "tests/x.py", "from unittest import mock\n", "real implementation of the port"),
    (rules.uses_no_mocks, "tests/x.py", "from unittest.mock import patch\n", "real implementation of the port"),
    (rules.uses_no_mocks, "tests/x.py", "import unittest.mock\n", "real implementation of the port"),
    (rules.names_no_machine, "requirements/x.txt", f"# made with {HOST}\n", "names a package registry"),
    (rules.names_no_machine, "docs/x.md", f"see {PATH}\n", "an absolute path of one machine"),
    (rules.is_finished, "docs/x.md", "this is a TO" + "DO\n", "a leftover"),
    (rules.runs_on_old_python, "edge_agent/worker/x.py", "if (n := f()):\n    pass\n", "not Python 3.7"),
    (rules.runs_on_old_python, "edge_agent/worker/x.py", "def f(x: int | None): ...\n", "add `from __future__"),
    (directions.point_down, "edge_agent/core/x.py", "from edge_agent.store import sqlite\n", "decisions are pure"),
    (directions.point_down, "edge_agent/core/x.py", "from ..store import sqlite\n", "decisions are pure"),
    (directions.point_down, "edge_agent/store/x.py", "import edge_agent.runtime.app\n", "no decisions"),
    (directions.point_down, "edge_agent/store/x.py", "def f():\n    import edge_agent.core.state\n", "no decisions"),
    (directions.point_down, "edge_agent/front/x.py", "from edge_agent.store.sqlite import f\n", "nothing to lose"),
    (directions.point_down, "edge_agent/front/x.py", "from edge_agent import runtime\n", "nothing to lose"),
    (
        directions.point_down,
        "edge_agent/worker/x.py",
        "from edge_agent.contract import limits\n",
        "numpy and an engine",
    ),
    (directions.point_down, "edge_agent/runtime/x.py", "from edge_agent.cli import main\n", "lies above it"),
    (directions.point_down, "edge_agent/attic/x.py", "from edge_agent.contract import limits\n", "in no order yet"),
    (directions.point_down, "edge_agent/core/x.py", "import cloud_sync.publish\n", "lives in edge_agent.contract"),
    (directions.point_down, "cloud_sync/x.py", "from edge_agent.trust import chain\n", "edge_agent.contract alone"),
    (directions.point_down, "cloud_sync/x.py", "import edge_agent.contracts\n", "edge_agent.contract alone"),
    (directions.point_down, "cloud_sync/store/x.py", "from cloud_sync.coordinator import memory\n", "no decisions"),
    (directions.point_down, "cloud_sync/repository/x.py", "from cloud_sync.core import plan\n", "decided above"),
    (directions.point_down, "cloud_sync/mqtt/x.py", "from cloud_sync.service import serve\n", "lies above it"),
    (directions.point_down, "cloud_sync/operator_cli/x.py", "import cloud_sync.store.tables\n", "over HTTP"),
    (directions.point_down, "cloud_sync/attic/x.py", "from cloud_sync import limits\n", "in no order yet"),
    (directions.core_is_pure, "cloud_sync/core/x.py", "import asyncio\n", "core imports asyncio"),
    (directions.core_is_pure, "edge_agent/core/x.py", "from time import monotonic\n", "core imports time"),
    (directions.core_is_pure, "edge_agent/core/x.py", "import os.path\n", "core imports os"),
    (directions.worker_is_alone, "edge_agent/worker/x.py", "import msgspec\n", "use the standard library"),
]

GOOD = [
    (rules.says_its_room, "edge_agent/x.py", ROOM),
    (rules.says_its_room, "tests/__init__.py", ""),
    (rules.is_not_too_long, "tests/x.py", "def f():\n" + "    x = 1\n" * 59),
    (rules.swallows_nothing, "tests/x.py", "try:\n    f()\nexcept OSError:\n    pass\n"),
    (rules.swallows_nothing, "tests/x.py", "try:\n    f()\nexcept Exception:\n    log()\n    raise\n"),
    (rules.bounds_its_loops, "tests/x.py", "while True:  # bounded by the queue\n    f()\n"),
    (rules.bounds_its_loops, "tests/x.py", "# one pass a message\nwhile True:\n    f()\n"),
    (rules.waits_for_events, "tests/harness/agent.py", "def wait_until():\n    time.sleep(POLL_S)\n"),
    (rules.waits_for_events, "edge_agent/client.py", "time.sleep(1)\n"),
    (rules.uses_no_mocks, "tests/x.py", "import unittest\n"),
    (rules.names_no_machine, "docs/x.md", "/tmp/x, /proc/self/fd/3, network/home/x\n"),
    (rules.runs_on_old_python, "edge_agent/runtime/x.py", "if (n := f()):\n    pass\n"),
    (directions.point_down, "edge_agent/runtime/x.py", "from edge_agent.core.state import Slot\n"),
    (directions.point_down, "edge_agent/front/x.py", "from edge_agent import AGENT_VERSION\n"),
    (directions.point_down, "cloud_sync/x.py", "from edge_agent.contract import limits\n"),
    (directions.point_down, "cloud_sync/mqtt/x.py", "from cloud_sync.coordinator.memory import Memory\n"),
    (directions.point_down, "cloud_sync/operator_cli/rehearse.py", "from edge_agent.core import lifecycle\n"),
    (directions.core_is_pure, "edge_agent/core/x.py", "from dataclasses import dataclass\n"),
    (directions.core_is_pure, "edge_agent/store/x.py", "import os\n"),
    (directions.worker_is_alone, "edge_agent/worker/x.py", "import numpy as np\nimport selectors\n"),
]


@pytest.mark.parametrize(("rule", "path", "text", "said"), BAD)
def test_bad_code_is_found_once_with_advice(rule: Rule, path: str, text: str, said: str) -> None:
    findings = list(rule(Source(path, text)))
    assert len(findings) == 1, findings
    assert said in str(findings[0])
    assert str(findings[0]).startswith(f"{path}:")


@pytest.mark.parametrize(("rule", "path", "text"), GOOD)
def test_right_code_passes(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text))) == []


def test_each_rule_has_a_bad_and_a_good_case() -> None:
    every = {*rules.RULES, directions.point_down, directions.core_is_pure, directions.worker_is_alone}
    assert every - {case[0] for case in BAD} == set()
    assert every - {case[0] for case in GOOD} == {rules.is_finished}, "anything without the words is right"


def test_the_order_and_the_rooms_with_fewer_rights_agree() -> None:
    for only, order in ((directions.ONLY, directions.ORDER), (directions.CLOUD_ONLY, directions.CLOUD_ORDER)):
        for room, (allowed, _) in only.items():
            assert all(order.index(target) < order.index(room) for target in allowed)
