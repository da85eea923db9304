"""Spans leave the process over OTLP, as a collector receives them."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from libs.telemetry import names
from libs.telemetry.tracing import configure_tracing, span, start_root, use_provider

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.received: list[Any] = []

    def Export(self, request: Any, context: object) -> Any:
        self.received.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def resource(self) -> dict[str, str]:
        attributes = self.received[0].resource_spans[0].resource.attributes
        return {one.key: one.value.string_value for one in attributes}

    @property
    def spans(self) -> dict[str, Span]:
        return {
            one.name: one
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for one in scope.spans
        }


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    """A collector and its address."""
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    kept = Collector()
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield kept, f"http://127.0.0.1:{port}"
    server.stop(0).wait()
    use_provider(None)


def test_spans_are_exported_by_the_time_the_service_has_stopped(collector: tuple[Collector, str]) -> None:
    kept, address = collector
    stop = configure_tracing("order", address)
    with start_root(f"00-{TRACE}-{SPAN}-01"), span(names.HTTP_REQUEST), span(names.PLACE_ORDER):
        pass
    stop()
    assert kept.resource[names.SERVICE_NAME] == "order"
    assert kept.resource[names.SERVICE_INSTANCE] == f"{platform.node()}-{os.getpid()}"
    outer, inner = kept.spans[names.HTTP_REQUEST], kept.spans[names.PLACE_ORDER]
    assert outer.trace_id.hex() == inner.trace_id.hex() == TRACE
    assert outer.parent_span_id.hex() == SPAN and inner.parent_span_id == outer.span_id


def test_of_new_traces_a_share_is_sampled_of_begun_ones_all(collector: tuple[Collector, str]) -> None:
    kept, address = collector
    stop = configure_tracing("order", address, sample_ratio=0.0)
    with start_root(None), span(names.HTTP_REQUEST), span(names.PLACE_ORDER):
        pass
    with start_root(f"00-{TRACE}-{SPAN}-01"), span(names.COMMAND):
        pass
    stop()
    assert set(kept.spans) == {names.COMMAND}


def test_without_a_collector_the_sdk_is_not_even_loaded() -> None:
    program = (
        "import sys\n"
        "from libs.telemetry.tracing import configure_tracing\n"
        "configure_tracing('order', '')\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
