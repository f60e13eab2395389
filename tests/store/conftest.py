"""Fixtures of the store's tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder where waiting for the disk costs nothing, for many cases that are not about the disk itself."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="hf-store-", dir=place) as folder:
        yield Path(folder)
