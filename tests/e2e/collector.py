"""An OTLP collector that remembers: a real gRPC server that services export their spans to."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from dockyard.local.waiting import wait_until
from libs.runtime.clock import SystemClock

# Exporters send at least every five seconds; on a busy machine the last of five processes may be late.
EXPORT_SECONDS = 45.0


@dataclass(frozen=True, slots=True)
class Span:
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, str | int | float | bool]


@dataclass(slots=True)
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Every span that arrived, by trace."""

    endpoint: str = ""
    _spans: dict[str, list[Span]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self._lock:
            for span in _spans(request):
                self._spans.setdefault(span.trace_id, []).append(span)
        return trace_service_pb2.ExportTraceServiceResponse()

    def trace(self, trace_id: str, *, until: Iterable[tuple[str, str]]) -> list[Span]:
        """The spans of a trace once each of these (service, name) is there and none lacks its parent.

        After the exporters had their time it is whatever has arrived.
        """
        wanted = set(until)

        def arrived() -> bool:
            with self._lock:
                spans = list(self._spans.get(trace_id, ()))
            ids = {span.span_id for span in spans}
            orphans = {span.parent_id for span in spans} - ids
            return wanted <= {(span.service, span.name) for span in spans} and len(orphans) <= 1

        wait_until(arrived, SystemClock(), EXPORT_SECONDS)
        with self._lock:
            return list(self._spans.get(trace_id, ()))


def _spans(request: trace_service_pb2.ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    service,
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    {
                        one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value")
                        for one in span.attributes
                    },
                )


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens until the block ends."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    collector.endpoint = f"http://127.0.0.1:{port}"
    server.start()
    yield collector
    server.stop(grace=None).wait()
