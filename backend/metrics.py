"""Counters that operators scrape from /metrics and people read on the status page."""

from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Seconds. The service's own calls take milliseconds, a long selection of photos up to the budget of 80 s.
_REQUEST_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 20.0, 80.0, 100.0)
_MODEL_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0)


class TaskOutcome(StrEnum):
    """What became of a task in /predict."""

    PREDICTED = "predicted"
    EMPTY = "empty"  # the photo or the task is bad; an empty prediction is stored
    DEFERRED = (
        "deferred"  # the photo cannot be had until somebody mends something or it passes; nothing is stored
    )
    SKIPPED = (
        "skipped"  # out of time; nothing is stored: a worker's job predicts it, or Label Studio asks again
    )
    TOLD = "told"  # a smart tool got no mask but a message, which says what is in the way; nothing is stored
    FAILED = "failed"  # an internal failure; nothing is stored, Label Studio may ask again


class Swap(StrEnum):
    """What became of a champion that was to be served."""

    DONE = "done"
    FAILED = "failed"  # it could not be loaded or does not predict; the old model serves on


class Metrics:
    """Prometheus metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("ebseg_requests", "HTTP requests", ["path", "status"], registry=self.registry)
        self.request_seconds = Histogram(
            "ebseg_request_seconds",
            "Time to answer an HTTP request",
            ["path"],
            buckets=_REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.tasks = Counter("ebseg_tasks", "Tasks of /predict", ["outcome"], registry=self.registry)
        self.model_seconds = Histogram(
            "ebseg_model_seconds",
            "Time of the model for one photo",
            buckets=_MODEL_BUCKETS,
            registry=self.registry,
        )
        self.model_ready = Gauge("ebseg_model_ready", "1 when the model can predict", registry=self.registry)
        self.swaps = Counter(
            "ebseg_model_swaps", "Changes of the model served", ["outcome"], registry=self.registry
        )
        self.hints_waiting = Gauge(
            "ebseg_hints_waiting",
            "Projects with hints that the learning loop has not taken on yet",
            registry=self.registry,
        )
        for outcome in TaskOutcome:
            self.tasks.labels(outcome)  # a counter that is scraped before its first event starts at 0
        for swap in Swap:
            self.swaps.labels(swap)

    def count(self, outcome: TaskOutcome) -> int:
        """Tasks with this outcome since the start."""
        return int(self.registry.get_sample_value("ebseg_tasks_total", {"outcome": outcome}) or 0)
