"""`fleet` beside a real coordinator, in this process or as one of its own. Its devices are played (`played`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import Result

from cloud_sync.operator_cli.main import main as fleet
from tests.cli.command import document, run
from tests.cloud.town import Town

FLEET = [sys.executable, "-m", "cloud_sync.operator_cli"]
END_S = 60.0


class Operator:
    """Somebody with a token and the publisher's keys, in front of one coordinator."""

    def __init__(self, town: Town) -> None:
        self.town = town

    @property
    def env(self) -> dict[str, str]:
        """What `fleet` needs; the repository is named where a test means it."""
        return {
            "HOLDFAST_COORDINATOR": self.town.url,
            "HOLDFAST_TOKEN_FILE": str(self.town.token_file),
            "HOLDFAST_KEYS": str(self.town.publisher.keys),
            "HOLDFAST_REPO": "",
        }

    @property
    def repository(self) -> Path:
        """The publisher's repository."""
        return self.town.publisher.repository.folder

    def run(self, *arguments: object, code: int = 0, **env: str) -> Result:
        """`fleet` with these arguments and its exit code checked."""
        return run(fleet, *arguments, code=code, env={**self.env, **env})

    def document(self, *arguments: object, code: int = 0, **env: str) -> Any:
        """The same with --json: the document."""
        return document(fleet, *arguments, code=code, env={**self.env, **env})

    @contextmanager
    def beside(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """`fleet` as a process beside the test; it is killed if it still runs at the end of the block."""
        process = subprocess.Popen(
            [*FLEET, *map(str, arguments)],
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()


def ended(process: subprocess.Popen[str], code: int) -> str:
    """stdout of a command that ends by itself, with this exit code."""
    out, err = process.communicate(timeout=END_S)
    assert process.returncode == code, err
    return out
