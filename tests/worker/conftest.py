"""Test stands, one per engine and interpreter for all tests of this folder. Models are `subjects`'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.worker.stand import Stand
from tests.worker.subjects import INSTALL_OLD_PYTHON, NUMPY, NUMPY_OLD, SUBJECTS, Subject, has_old_python


@pytest.fixture(scope="session")
def stands() -> Iterator[Callable[[Subject], Stand]]:
    """The stand of a subject, made when it is first asked for."""
    made: dict[str, Stand] = {}
    with ExitStack() as stack:

        def stand_of(subject: Subject) -> Stand:
            if subject.python not in made:
                made[subject.python] = stack.enter_context(Stand(subject.engine, subject.python))
            return made[subject.python]

        yield stand_of


@pytest.fixture(params=SUBJECTS, ids=lambda subject: subject.name)
def subject(request: pytest.FixtureRequest) -> Subject:
    """Every engine, format and interpreter in turn."""
    chosen: Subject = request.param
    if chosen == NUMPY_OLD and not has_old_python():
        pytest.skip(INSTALL_OLD_PYTHON)
    return chosen


@pytest.fixture
def stand(subject: Subject, stands: Callable[[Subject], Stand]) -> Iterator[Stand]:
    """The stand of the subject; workers of the test are ended."""
    chosen = stands(subject)
    yield chosen
    chosen.end_workers()


@pytest.fixture
def numpy_stand(stands: Callable[[Subject], Stand]) -> Iterator[Stand]:
    """For what does not depend on the engine."""
    chosen = stands(NUMPY)
    yield chosen
    chosen.end_workers()
