"""The error tree: four classes by who has to act, each error with one line and a next step."""

from __future__ import annotations

import inspect

import pytest

from edge_agent.contract import errors
from edge_agent.contract.errors import Bug, Corrupt, HoldfastError, Rejected, Unavailable
from edge_agent.contract.reasons import Reason


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    classes = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, HoldfastError) and kind is not HoldfastError
    }
    drawn = {line.split()[1] for line in (errors.__doc__ or "").splitlines() if line[:1] in "├└" and line}
    assert classes == drawn


def test_the_base_class_is_never_raised() -> None:
    with pytest.raises(TypeError, match="abstract"):
        HoldfastError("something")


def test_an_error_reads_as_its_message_and_its_next_step() -> None:
    stated = Rejected("the file is gone", next_step="Copy it again")
    assert str(stated) == "the file is gone. Copy it again"
    assert (stated.message, stated.reason, stated.exit_code) == ("the file is gone", None, 1)
    assert str(Bug("a promise is broken")) == "a promise is broken"


def test_an_error_has_one_document_for_commands_and_api() -> None:
    assert Rejected("no", reason=Reason.SIGNATURE).document() == {
        "ok": False,
        "reason": "signature",
        "message": "no",
        "next_step": Reason.SIGNATURE.next_step,
    }
    assert Bug("no").document() == {"ok": False, "reason": None, "message": "no", "next_step": None}


def test_a_reason_brings_its_next_step_unless_the_error_knows_better() -> None:
    assert Unavailable("no", reason=Reason.DISK_FULL).next_step == Reason.DISK_FULL.next_step
    assert Corrupt("no", reason=Reason.DAMAGE, next_step="Do this").next_step == "Do this"
