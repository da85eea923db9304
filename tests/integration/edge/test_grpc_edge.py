"""What every service's callers see over gRPC, on a real socket."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from libs.kernel.errors import DockyardError, InDoubt, Invalid, Overloaded, Refused, Unavailable
from libs.runtime.grpc_edge import MESSAGE_BYTES_MAX, call, call_error, channel, create_server
from libs.telemetry import metrics, names
from libs.telemetry.tracing import current_traceparent, start_root, use_provider
from proto.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from tests.integration.edge.serving import closed_port, serve_grpc

SERVICE = inventory_pb2.DESCRIPTOR.services_by_name["InventoryService"].full_name
METHOD = f"{SERVICE}/GetProduct"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "the password is hunter2"

Request = inventory_pb2.GetProductRequest
Response = inventory_pb2.GetProductResponse

ERRORS: dict[str, Exception] = {
    "sold-out": Refused("none left", code="sold-out", details={"sku": "lamp"}),
    "busy": Overloaded("too much", retry_after_seconds=1.5),
    "malformed": Invalid("a sku has 1 to 64 letters"),
    "endless": Invalid("€" * 1_000_000),
    "bug": ValueError(SECRET),
    "own-bug": DockyardError(SECRET),
}


class Warehouse:
    """Knows one method: answers with the traceparent that it sees, or with the error that the sku names."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def get_product(self, request: Request, context: object) -> Response:
        if request.sku in ERRORS:
            raise ERRORS[request.sku]
        if request.sku == "never":
            self.asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        if request.sku == "too-large":
            return Response(product=inventory_pb2.Product(name="x" * (MESSAGE_BYTES_MAX + 1)))
        return Response(product=inventory_pb2.Product(sku=request.sku, name=current_traceparent()))

    def add_to(self, server: grpc.aio.Server) -> None:
        handler = grpc.unary_unary_rpc_method_handler(
            self.get_product, request_deserializer=Request.FromString, response_serializer=Response.SerializeToString
        )
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"GetProduct": handler})])


@pytest_asyncio.fixture
async def warehouse() -> Warehouse:
    return Warehouse()


@pytest_asyncio.fixture
async def peer(warehouse: Warehouse) -> AsyncIterator[grpc.aio.Channel]:
    async with serve_grpc(SERVICE, warehouse.add_to) as (_, opened):
        yield opened


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    use_provider(provider)
    yield exporter
    use_provider(None)
    provider.shutdown()


def get_product(peer: grpc.aio.Channel) -> Callable[..., Any]:
    return inventory_pb2_grpc.InventoryServiceStub(peer).GetProduct


async def ask(peer: grpc.aio.Channel, sku: str, seconds: float = 10) -> Response:
    answer: Response = await call(get_product(peer), Request(sku=sku), seconds)
    return answer


async def test_it_serves(peer: grpc.aio.Channel) -> None:
    assert (await ask(peer, "lamp")).product.sku == "lamp"


@pytest.mark.parametrize("sku", ["sold-out", "busy", "malformed"])
async def test_the_error_that_a_peer_raises_is_raised_here(peer: grpc.aio.Channel, sku: str) -> None:
    sent = ERRORS[sku]
    assert isinstance(sent, DockyardError)
    with pytest.raises(type(sent)) as raised:
        await ask(peer, sku)
    got = raised.value
    assert type(got) is type(sent)
    assert (got.code, got.message, got.details) == (sent.code, sent.message, dict(sent.details))
    assert got.retry_after_seconds == sent.retry_after_seconds


async def test_an_error_that_says_too_much_arrives_all_the_same(peer: grpc.aio.Channel) -> None:
    """Headers of more than 8 KiB are dropped by chance, those of more than 16 always: often enough to be sure."""
    for _ in range(20):
        with pytest.raises(Invalid):
            await ask(peer, "endless")


@pytest.mark.parametrize("sku", ["bug", "own-bug"])
async def test_a_bug_is_told_as_no_more_than_that_and_logged_once(
    peer: grpc.aio.Channel, caplog: pytest.LogCaptureFixture, sku: str
) -> None:
    with start_root(TRACEPARENT), pytest.raises(grpc.aio.AioRpcError) as raised:
        await get_product(peer)(Request(sku=sku), metadata=(("traceparent", TRACEPARENT),))
    error = raised.value
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in repr(error) and "hunter2" not in str(error.trailing_metadata())
    restored = call_error(error)
    assert type(restored) is InDoubt and restored.details == {"trace_id": TRACEPARENT[3:35]}
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in errors] == ["call failed"]
    assert errors[0].exc_info is not None and SECRET in str(errors[0].exc_info[1])


async def test_an_answer_that_does_not_come_is_in_doubt(peer: grpc.aio.Channel, warehouse: Warehouse) -> None:
    with pytest.raises(InDoubt) as raised:
        await ask(peer, "never", seconds=0.05)
    assert raised.value.code == "grpc-deadline-exceeded"
    await asyncio.wait_for(warehouse.left.wait(), 5)


async def test_a_peer_that_dies_under_a_call_leaves_it_in_doubt(warehouse: Warehouse) -> None:
    server, _ = create_server([SERVICE], warehouse.add_to)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with channel(f"127.0.0.1:{port}") as peer, asyncio.TaskGroup() as group:
        asked = group.create_task(outcome(ask(peer, "never")))
        await warehouse.asked.wait()
        await server.stop(0)
        assert type(await asked) is InDoubt


async def outcome(asking: Any) -> object:
    try:
        return await asking
    except DockyardError as error:
        return error


async def test_a_peer_that_is_not_there_was_not_asked() -> None:
    with closed_port() as port:
        async with channel(f"127.0.0.1:{port}") as peer:
            with pytest.raises(Unavailable) as raised:
                await ask(peer, "lamp")
    assert raised.value.code == "peer-unreachable"


async def test_a_channel_comes_back_with_its_peer(warehouse: Warehouse) -> None:
    first, _ = create_server([SERVICE], warehouse.add_to)
    port = first.add_insecure_port("127.0.0.1:0")
    await first.start()
    async with channel(f"127.0.0.1:{port}") as peer:
        await ask(peer, "lamp")
        await first.stop(0)
        assert isinstance(await outcome(ask(peer, "lamp")), DockyardError)
        second, _ = create_server([SERVICE], warehouse.add_to)
        assert second.add_insecure_port(f"127.0.0.1:{port}") == port
        await second.start()
        await get_product(peer)(Request(sku="lamp"), wait_for_ready=True, timeout=5)
        await second.stop(0)


async def test_two_servers_do_not_share_a_port(warehouse: Warehouse) -> None:
    async with serve_grpc(SERVICE, warehouse.add_to) as (address, _):
        second, _serving = create_server([SERVICE], warehouse.add_to)
        with pytest.raises(RuntimeError, match="Failed to bind"):
            second.add_insecure_port(address)


async def test_a_caller_that_leaves_takes_its_call_along(
    peer: grpc.aio.Channel, warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ask(peer, "never"))
        await warehouse.asked.wait()
        asking.cancel()
    assert asking.cancelled()
    await asyncio.wait_for(warehouse.left.wait(), 5)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_messages_have_a_limit_both_ways(peer: grpc.aio.Channel) -> None:
    with pytest.raises(InDoubt) as raised:
        await ask(peer, "x" * (MESSAGE_BYTES_MAX + 1))
    assert raised.value.code == "grpc-resource-exhausted"
    with pytest.raises(InDoubt):
        await ask(peer, "too-large")
    assert (await ask(peer, "x" * (MESSAGE_BYTES_MAX // 3))).product.sku


async def test_a_method_that_a_peer_does_not_have_is_our_mistake(peer: grpc.aio.Channel) -> None:
    await ask(peer, "lamp")
    unknown: Any = peer.unary_unary(f"/{SERVICE}/Burn", request_serializer=Request.SerializeToString)
    with pytest.raises(Invalid) as raised:
        await call(unknown, Request(), 5)
    assert raised.value.code == "grpc-unimplemented"


# What tools ask.


async def test_it_says_what_it_serves(peer: grpc.aio.Channel) -> None:
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    stub: Any = reflection_pb2_grpc.ServerReflectionStub
    answers = stub(peer).ServerReflectionInfo(iter([asked]))
    listed = [one.name async for answer in answers for one in answer.list_services_response.service]
    assert set(listed) == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_it_says_whether_it_serves(warehouse: Warehouse) -> None:
    server, serving = create_server([SERVICE], warehouse.add_to)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with channel(f"127.0.0.1:{port}") as peer:
        health: Any = health_pb2_grpc.HealthStub(peer)

        async def status(name: str) -> int:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            return int(answer.status)

        await serving(True)
        assert [await status(name) for name in ("", SERVICE)] == [health_pb2.HealthCheckResponse.SERVING] * 2
        await serving(False)
        assert [await status(name) for name in ("", SERVICE)] == [health_pb2.HealthCheckResponse.NOT_SERVING] * 2
    await server.stop(0)


# Traces and metrics.


async def test_a_trace_goes_on_at_the_peer_although_nobody_collects(peer: grpc.aio.Channel) -> None:
    with start_root(TRACEPARENT):
        assert (await ask(peer, "lamp")).product.name == TRACEPARENT
    begun = (await ask(peer, "lamp")).product.name
    assert len(begun) == 55 and begun != (await ask(peer, "lamp")).product.name


async def test_a_call_is_a_span_here_and_its_child_there(peer: grpc.aio.Channel, spans: InMemorySpanExporter) -> None:
    with start_root(TRACEPARENT):
        seen = (await ask(peer, "lamp")).product.name
    served, called = sorted(spans.get_finished_spans(), key=lambda one: one.name == names.GRPC_CALL)
    assert (served.name, called.name) == (names.GRPC_SERVE, names.GRPC_CALL)
    assert (served.kind, called.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert served.parent is not None and served.parent.span_id == called.context.span_id
    assert called.parent is not None and f"{called.parent.span_id:016x}" == TRACEPARENT[36:52]
    assert served.context.trace_id == called.context.trace_id == int(TRACEPARENT[3:35], 16)
    assert seen.split("-")[2] == f"{served.context.span_id:016x}"
    assert served.attributes == {names.RPC_METHOD: METHOD}


async def test_spans_fail_with_failures_and_not_with_refusals(
    peer: grpc.aio.Channel, spans: InMemorySpanExporter
) -> None:
    for sku, code, status in (
        ("sold-out", "sold-out", StatusCode.UNSET),
        ("busy", "overloaded", StatusCode.ERROR),
    ):
        with pytest.raises(DockyardError):
            await ask(peer, sku)
        for ended in spans.get_finished_spans():
            assert ended.status.status_code is status
            assert (ended.attributes or {})[names.ERROR_CODE] == code
        spans.clear()


async def test_calls_are_counted_by_method_and_code(peer: grpc.aio.Channel) -> None:
    def counted(code: str) -> float:
        labels = {"method": METHOD, "code": code}
        return metrics.REGISTRY.get_sample_value(f"{names.METRIC_GRPC_CALLS}_total", labels) or 0.0

    codes = ("OK", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "INTERNAL")
    before = [counted(code) for code in codes]
    for sku in ("lamp", "rope", "sold-out", "busy", "bug"):
        await outcome(ask(peer, sku))
    assert [counted(code) - was for code, was in zip(codes, before, strict=True)] == [2, 1, 1, 1]
