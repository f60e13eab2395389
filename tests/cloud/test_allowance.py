"""What one device may say in a time. That others are heard meanwhile is shown by test_hostile."""

from __future__ import annotations

from cloud_sync.mqtt.allowance import Allowance


def test_a_device_has_a_burst_and_then_what_the_time_gives() -> None:
    allowance = Allowance(burst_bytes=100, bytes_per_s=10, devices_max=10)
    assert allowance.grants("d1", 60, 0.0)
    assert not allowance.grants("d1", 60, 1.0)
    assert allowance.grants("d2", 100, 1.0), "another one has its own"
    assert allowance.grants("d1", 60, 2.0)
    assert not allowance.grants("d1", 101, 1_000.0), "never more than a burst"
    assert allowance.grants("d1", 100, 1_000.0)


def test_who_has_said_much_is_not_forgotten_for_others() -> None:
    allowance = Allowance(burst_bytes=100, bytes_per_s=0, devices_max=3)
    assert allowance.grants("loud", 100, 0.0)
    for number in range(20):
        assert allowance.grants(f"d{number}", 1, 0.0)
    assert not allowance.grants("loud", 1, 0.0)
