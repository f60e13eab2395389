"""How much one device may say, so that parsing it leaves time for the others; what is said is not known here."""

from __future__ import annotations


class Allowance:
    """A bucket of bytes per device: full at first, filled again as time goes on. Bounded: the fullest are forgotten."""

    def __init__(self, burst_bytes: int, bytes_per_s: float, devices_max: int) -> None:
        self._burst_bytes = burst_bytes
        self._bytes_per_s = bytes_per_s
        self._devices_max = devices_max
        self._left: dict[str, tuple[float, float]] = {}

    def grants(self, device_id: str, length_bytes: int, now_s: float) -> bool:
        """Whether the device may say so many bytes now; if so, they are taken from what it has left."""
        left, at_s = self._left.get(device_id, (float(self._burst_bytes), now_s))
        left = min(self._burst_bytes, left + (now_s - at_s) * self._bytes_per_s)
        granted = left >= length_bytes
        self._left[device_id] = (left - length_bytes if granted else left, now_s)
        if len(self._left) > self._devices_max:
            del self._left[max(self._left, key=lambda one: self._left[one][0])]
        return granted
