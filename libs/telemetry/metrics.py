"""Counters and histograms in the Prometheus text format; labels have few values, never ids."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from libs.telemetry import names

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

HTTP_REQUESTS = Counter(
    names.METRIC_HTTP_REQUESTS, "HTTP requests answered", ("method", "route", "status"), registry=REGISTRY
)
HTTP_SECONDS = Histogram(
    names.METRIC_HTTP_SECONDS, "Seconds to answer an HTTP request", ("route",), buckets=_SECONDS, registry=REGISTRY
)
GRPC_CALLS = Counter(names.METRIC_GRPC_CALLS, "gRPC calls answered", ("method", "code"), registry=REGISTRY)
GRPC_SECONDS = Histogram(
    names.METRIC_GRPC_SECONDS, "Seconds to answer a gRPC call", ("method",), buckets=_SECONDS, registry=REGISTRY
)
BATCH_ROWS = Histogram(names.METRIC_BATCH_ROWS, "Items in a batch", ("batch",), buckets=_ROWS, registry=REGISTRY)
BATCH_SECONDS = Histogram(
    names.METRIC_BATCH_SECONDS, "Seconds a batch took", ("batch",), buckets=_SECONDS, registry=REGISTRY
)
SAGAS_ENDED = Counter(
    names.METRIC_SAGAS_ENDED, "Sagas that ended or were parked", ("saga", "outcome"), registry=REGISTRY
)
SAGAS_RUNNING = Gauge(names.METRIC_SAGAS_RUNNING, "Sagas being run by this process", registry=REGISTRY)
EVENTS_PUBLISHED = Counter(names.METRIC_EVENTS_PUBLISHED, "Events sent to the broker", ("topic",), registry=REGISTRY)
EVENTS_CONSUMED = Counter(names.METRIC_EVENTS_CONSUMED, "Events applied", ("group", "topic"), registry=REGISTRY)
EVENTS_PARKED = Counter(names.METRIC_EVENTS_PARKED, "Events given up on", ("group",), registry=REGISTRY)
BREAKER_OPEN = Gauge(names.METRIC_BREAKER_OPEN, "1 while the breaker refuses calls", ("peer",), registry=REGISTRY)


def render() -> bytes:
    """All of them, as Prometheus scrapes them."""
    return generate_latest(REGISTRY)
