"""What GET /metrics shows, in a registry of its own; the runtime's numbers arrive with its routes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from edge_agent.front.routes import ShareRoute

BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0)


class FrontMetrics:
    """Counters of this front."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "holdfast_requests_total", "Inference requests", ["model", "version", "status"], registry=self._registry
        )
        self.latency = Histogram(
            "holdfast_request_seconds", "Inference requests, in the front", ["model"], buckets=BUCKETS_S,
            registry=self._registry,
        )  # fmt: skip
        self._lost = Counter(
            "holdfast_workers_lost_total", "Workers that died with a request", ["model"], registry=self._registry
        )
        self._replays = Counter("holdfast_replays_total", "Requests sent again", ["model"], registry=self._registry)
        self._waiting = Gauge("holdfast_queue_length", "Requests without a worker", ["model"], registry=self._registry)
        self._in_flight = Gauge("holdfast_in_flight", "Requests at workers", ["model"], registry=self._registry)
        self._serving = Gauge(
            "holdfast_serving",
            "1 for the snapshot that serves",
            ["model", "version", "digest"],
            registry=self._registry,
        )
        self._share = Gauge(
            "holdfast_trial_share_percent", "Requests that go to a candidate", ["model"], registry=self._registry
        )
        self._copies = Counter(
            "holdfast_trial_copies_total",
            "Copies of requests for a candidate",
            ["model", "version", "outcome"],
            registry=self._registry,
        )
        self._returned = Counter(
            "holdfast_trial_returned_total",
            "Requests that a candidate could not answer and the active snapshot got",
            ["model", "version"],
            registry=self._registry,
        )
        self._runtime = Gauge("holdfast_runtime", "What the runtime tells", ["name", "model"], registry=self._registry)

    def note_share(self, model: str, share: ShareRoute | None) -> None:
        """The candidate's part of the requests now."""
        self._share.labels(model).set(share.percent if share else 0)

    def note_copy(self, model: str, version: str, outcome: str) -> None:
        """What became of a copy for this candidate: agreed, disagreed, failed or dropped."""
        self._copies.labels(model, version, outcome).inc()

    def note_returned(self, model: str, version: str) -> None:
        """The candidate failed on a request of its share, which the active snapshot gets."""
        self._returned.labels(model, version).inc()

    def note_queue(self, model: str, waiting: int, in_flight: int) -> None:
        """The present lengths."""
        self._waiting.labels(model).set(waiting)
        self._in_flight.labels(model).set(in_flight)

    def note_lost(self, model: str, *, replayed: bool) -> None:
        """A worker died with a request."""
        self._lost.labels(model).inc()
        if replayed:
            self._replays.labels(model).inc()

    def note_routes(self, serving: dict[str, tuple[str, str]], gauges: dict[str, float]) -> None:
        """model -> (version, digest) that serve, and the runtime's numbers."""
        self._serving.clear()
        for model, (version, digest) in serving.items():
            self._serving.labels(model, version, digest).set(1)
        for key, value in gauges.items():
            name, _, model = key.partition(":")
            self._runtime.labels(name, model).set(value)

    def render(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self._registry)
