"""What is counted for Prometheus, in a registry of its own; where it is shown is `api`'s matter."""

from __future__ import annotations

from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from cloud_sync.coordinator.memory import Memory
from cloud_sync.core.progress import Whole, progress


class Metrics:
    """The coordinator's counters; gauges are taken from memory when they are asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, says: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"holdfast_{name}", says, labels, registry=self.registry)

        def gauge(name: str, says: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"holdfast_{name}", says, labels, registry=self.registry)

        self.reports_committed = counter("reports_committed", "Reports of devices that were committed")
        self.reports_lost = counter("reports_lost", "Reports that devices dropped before they were sent")
        self.part_bytes = counter("parts_served_bytes", "Bytes of parts sent to devices, by their way", ("way",))
        self.parts = counter("parts", "Requests for parts, by the answer's status and their way", ("status", "way"))
        self.messages_refused = counter("messages_refused", "Messages that were turned away, by reason", ("reason",))
        self._devices = gauge("devices", "Known devices, by whether they are online", ("online",))
        self._rollouts = gauge("rollouts", "Rollouts, by state", ("state",))
        self._stopped = gauge("planning_stopped", "1 while nothing is planned")
        self._broker = gauge("broker_connected", "1 while connected to the broker")

    def text(self, memory: Memory) -> bytes:
        """All of it in Prometheus' format."""
        fleet, now_s = memory.fleet(), memory.now_s()
        online = sum(device.online(now_s) for device in fleet.devices.values())
        self._devices.labels("true").set(online)
        self._devices.labels("false").set(len(fleet.devices) - online)
        tally = Tally(one.state for one in progress(fleet, memory.rollouts, now_s).values())
        for state in Whole:
            self._rollouts.labels(state.value).set(tally[state])
        self._stopped.set(memory.stopped() is not None)
        self._broker.set(memory.broker_since_unix_ms is not None)
        return generate_latest(self.registry)
