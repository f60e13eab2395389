"""Reports are committed once, and acknowledged only then: over repeats, gaps, mixed orders and kill -9."""

from __future__ import annotations

from edge_agent.contract import topics
from tests.cloud.conftest import NewDevice
from tests.cloud.town import Town


def committed(town: Town, device_id: str) -> list[int]:
    """Numbers of the newest reports, oldest first."""
    return [report["number"] for report in town.device(device_id)["reports"]][::-1]


def lost(town: Town, device_id: str) -> int:
    """How many never came."""
    return int(town.device(device_id)["lost_reports"])


def test_reports_that_come_twice_or_late_are_committed_once(town: Town, new_device: NewDevice) -> None:
    device = new_device(town, "twice")
    device.reports(1, 2, after=0)
    device.reports(1, 2, after=0)
    device.reports(1, 2, 3, after=0)
    device.wait_ack(3)
    device.reports(1, 2, after=0)  # of long ago
    device.wait_ack(3)
    assert committed(town, "twice") == [1, 2, 3]
    assert lost(town, "twice") == 0


def test_a_gap_is_counted_as_lost_and_nobody_waits_for_it(town: Town, new_device: NewDevice) -> None:
    device = new_device(town, "gaps")
    device.reports(3, 4, 7)
    device.wait_ack(7)
    assert committed(town, "gaps") == [3, 4, 7]
    assert lost(town, "gaps") == 4
    device.reports(8)
    device.wait_ack(8)
    assert lost(town, "gaps") == 4
    assert b"holdfast_reports_lost_total 4.0" in town.raw("GET", "/metrics", None, {})[1]


def test_a_new_incarnation_begins_again_and_the_old_one_is_remembered(town: Town, new_device: NewDevice) -> None:
    device = new_device(town, "reborn")
    device.reports(1, 2)
    device.wait_ack(2)
    device.incarnation, device.acknowledged = "i2", 0
    device.hello()
    device.wait_ack(0)
    device.reports(1)
    device.wait_ack(1)
    assert committed(town, "reborn") == [1, 2, 1]
    device.incarnation = "i1"
    device.hello()
    device.wait_ack(2)


def test_an_empty_batch_is_answered_with_what_is_committed(town: Town, new_device: NewDevice) -> None:
    device = new_device(town, "empty")
    device.reports()
    assert device.next_ack().committed == 0


def test_reports_in_the_name_of_another_device_are_turned_away(town: Town, new_device: NewDevice) -> None:
    liar = new_device(town, "liar")
    new_device(town, "victim")
    liar.reports(1, device_id="victim")
    liar.reports(1)
    liar.wait_ack(1)
    assert committed(town, "victim") == []


def test_nothing_that_was_acknowledged_is_lost_by_kill_9_and_nothing_comes_twice(
    own: Town, new_device: NewDevice
) -> None:
    device = new_device(own, "d1")
    number = 0
    for _ in range(3):
        device.reports(number + 1, number + 2)
        device.wait_ack(number + 2)
        number += 2
        device.reports(number + 1)  # under way while the coordinator is killed: committed or not, and then sent again
        own.kill()
        own.restart()
        device.next(topics.COORDINATOR)
        device.hello()
        told = device.next_ack().committed
        assert told in (number, number + 1)
        device.acknowledged = number
        device.reports(number + 1)
        device.wait_ack(number + 1)
        number += 1
    assert committed(own, "d1") == list(range(1, number + 1))
    assert lost(own, "d1") == 0
