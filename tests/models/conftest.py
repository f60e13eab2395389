"""All model folders that these tests look at, made at once. How they are kept is `tests.models_cache`'s."""

from __future__ import annotations

import pytest

from tests.models_cache import Recipe, make_all

LENET_OLD = Recipe("digits_lenet", "1.0.0")
LENET = Recipe("digits_lenet", "1.1.0")
LENET_PIR = Recipe("digits_lenet", "1.1.0", "pir")
MOBILENET = Recipe("mobilenet_v2")
TINY = Recipe("tiny_numpy")


@pytest.fixture(scope="session", autouse=True)
def made() -> None:
    """Two recipes at a time, the slowest first; nothing to do when they are kept from an earlier run."""
    make_all([LENET_PIR, LENET, LENET_OLD, MOBILENET, TINY])
