"""Policies as operators and publishers type them: KEY=VALUE, as many as are wanted. What holds, devices decide."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click
import msgspec

from edge_agent.contract.errors import Rejected
from edge_agent.contract.policy import Policy
from edge_agent.contract.reasons import Reason

F = TypeVar("F", bound=Callable[..., Any])
KEYS = Policy.__struct_fields__


def policy_option(help_text: str) -> Callable[[F], F]:
    """--policy KEY=VALUE, which may be repeated: argument policy_words."""
    return click.option("--policy", "policy_words", multiple=True, metavar="KEY=VALUE", help=help_text)


def read_policy(words: Iterable[str]) -> Policy:
    """KEY=VALUE with TOML values (share_percents=[10, 50]). Raises Rejected (malformed) with the nearest key."""
    stated: dict[str, Any] = {}
    for word in words:
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals or key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.4)
            raise _wrong(f"--policy {word}: there is no key {key!r}", f"Did you mean {near[0]}?" if near else _SEE)
        try:
            stated[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError as error:
            raise _wrong(f"--policy {word}: {value!r} is no value", "Write for example shadow_s=60") from error
    try:
        return msgspec.convert(stated, Policy)
    except msgspec.ValidationError as error:
        raise _wrong(f"--policy: {error}", _SEE) from error


_SEE = f"The keys are: {', '.join(KEYS)}"


def _wrong(message: str, next_step: str) -> Rejected:
    return Rejected(message, reason=Reason.MALFORMED, next_step=next_step)
