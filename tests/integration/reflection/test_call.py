"""The reflection client against a server of the platform's own making."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from dockyard.local.ports import free_port
from dockyard.reflection import CallRefused, Reflected
from libs.kernel.errors import Invalid, NotFound, Overloaded, Unavailable
from libs.runtime.grpc_edge import create_server
from proto.inventory.v1 import inventory_pb2, inventory_pb2_grpc

SERVICE = inventory_pb2.DESCRIPTOR.services_by_name["InventoryService"].full_name


class OneLamp(inventory_pb2_grpc.InventoryServiceServicer):
    async def GetProduct(
        self, request: inventory_pb2.GetProductRequest, context: object
    ) -> inventory_pb2.GetProductResponse:
        match request.sku:
            case "lamp":
                return inventory_pb2.GetProductResponse(product=inventory_pb2.Product(sku="lamp", on_hand=3))
            case "chair":
                raise Overloaded("too many want chairs", retry_after_seconds=2.0)
            case _:
                raise Invalid("there are lamps, and chairs")


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    servicer = OneLamp()  # type: ignore[abstract]  # the other methods answer UNIMPLEMENTED
    server, serve = create_server(
        [SERVICE], lambda one: inventory_pb2_grpc.add_InventoryServiceServicer_to_server(servicer, one)
    )
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    await serve(True)
    try:
        yield address
    finally:
        await server.stop(None)


async def call(address: str, method: str, request: str) -> object:
    def blocking() -> object:
        with grpc.insecure_channel(address) as channel:
            return Reflected(channel, address).call(method, request)

    return await asyncio.to_thread(blocking)


async def test_a_call_needs_no_stubs() -> None:
    async with serving() as address:
        answer = await call(address, f"{SERVICE}/GetProduct", '{"sku": "lamp"}')
    assert answer == {"product": {"sku": "lamp", "on_hand": "3"}}


async def test_methods_are_listed_health_among_them() -> None:
    def blocking(address: str) -> list[str]:
        with grpc.insecure_channel(address) as channel:
            return list(Reflected(channel, address).methods())

    async with serving() as address:
        methods = await asyncio.to_thread(blocking, address)
    assert {f"{SERVICE}/GetProduct", "grpc.health.v1.Health/Check"} <= set(methods)


async def test_an_error_keeps_its_code_and_its_details() -> None:
    async with serving() as address:
        with pytest.raises(CallRefused) as refused:
            await call(address, f"{SERVICE}/GetProduct", '{"sku": "chair"}')
    answer = json.loads(refused.value.message)
    assert answer["code"] == "RESOURCE_EXHAUSTED"
    assert answer["message"] == "too many want chairs"
    assert answer["details"][0]["reason"] == "overloaded"
    assert answer["details"][1] == {"retry_delay": "2s"}


@pytest.mark.parametrize("method", [f"{SERVICE}/Sing", "dockyard.opera.v1.Opera/Sing", "GetProduct"])
async def test_a_method_that_does_not_exist_is_one_clear_sentence(method: str) -> None:
    async with serving() as address:
        with pytest.raises(NotFound, match="has no method"):
            await call(address, method, "{}")


@pytest.mark.parametrize("request_", ["lamp", '{"colour": "red"}', '{"sku": 7}'])
async def test_a_request_that_does_not_fit_is_not_sent(request_: str) -> None:
    async with serving() as address:
        with pytest.raises(Invalid, match="GetProductRequest"):
            await call(address, f"{SERVICE}/GetProduct", request_)


def test_nobody_there_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dockyard.reflection.CONNECT_SECONDS", 0.2)
    address = f"127.0.0.1:{free_port()}"
    with grpc.insecure_channel(address) as channel, pytest.raises(Unavailable, match="is the platform up"):
        list(Reflected(channel, address).methods())
