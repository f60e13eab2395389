"""Sealed memory files: bytes that nobody can change after they were verified.

Where the bytes come from is not known here.
"""

from __future__ import annotations

import fcntl
import os
from types import TracebackType

ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class SealedFile:
    """Write, then `seal` to get the descriptor; left unsealed (an error on the way), everything is given back."""

    def __init__(self, name: str) -> None:
        self._fd = os.memfd_create(name[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._length = 0

    def __enter__(self) -> SealedFile:
        return self

    def write(self, data: bytes) -> None:
        """Append. Zeros become a hole, so that a sparse model takes no memory for them."""
        if not data or (data[0] == data[-1] == 0 and data == bytes(len(data))):
            self._length += len(data)
            return
        view = memoryview(data)
        while view:  # each pass writes at least one byte
            written = os.pwrite(self._fd, view, self._length)
            self._length += written
            view = view[written:]

    def seal(self) -> int:
        """The descriptor, from now on unchangeable; the caller owns it."""
        os.ftruncate(self._fd, self._length)
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, ALL_SEALS)
        fd, self._fd = self._fd, -1
        return fd

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
