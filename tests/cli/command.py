"""Runs a command as a shell would see it: exit code, stdout, stderr. What is expected is the tests' matter."""

from __future__ import annotations

import json
from typing import Any

import click
from click.testing import CliRunner, Result


def run(command: click.Command, *arguments: object, code: int = 0, env: dict[str, str] | None = None) -> Result:
    """In this process, with its exit code checked, and never an error that nobody meant."""
    result = CliRunner(env=env).invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.exit_code, result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def document(command: click.Command, *arguments: object, code: int = 0, env: dict[str, str] | None = None) -> Any:
    """The one JSON document on stdout; fails when there is anything else on it."""
    return json.loads(run(command, *arguments, "--json", code=code, env=env).stdout)


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with the words that lead to it."""
    if not isinstance(command, click.Group):
        return [(path, command)]
    return [leaf for name, inner in command.commands.items() for leaf in leaves(inner, (*path, name))]
