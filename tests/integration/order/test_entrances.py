"""The order service as its process builds it: every style from its entrances, and the answers of its coordinator."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

from libs.choreography.events import outgoing
from libs.coordination.outcomes import Outcome
from libs.coordination.remote import RemoteCoordinator
from libs.kernel.errors import Invalid
from libs.messaging.broker import Mark
from libs.messaging.redis_streams import RedisStreamsBroker
from libs.runtime.clock import Ids, SystemClock
from libs.runtime.coordinator_rpc import ResolveCall
from libs.runtime.grpc_edge import call
from libs.runtime.position import Position
from proto.events.v1 import events_pb2
from proto.kernel.v1 import kernel_pb2
from proto.order.v1 import order_pb2, order_pb2_grpc
from services.order.config import OrderSettings
from services.order.domain import COORDINATIONS, NAIVE, TCC
from services.order.main import build
from tests.conftest import MakeDatabase
from tests.integration.edge.serving import closed_port, serve_entrances
from tests.integration.order.bureau import MIGRATIONS, Bureau, open_bureau

HARBOUR = {"name": "Ada", "street": "Quay 1", "city": "Hamburg", "postcode": "20457", "zone": "DE"}
PEERS = ("inventory_address", "payment_address", "shipping_address")
HEARD = datetime(2026, 1, 31, 12, tzinfo=UTC)


@asynccontextmanager
async def served(url: str, **settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, grpc.aio.Channel]]:
    """Its participants are away."""
    with closed_port() as port:
        addresses = dict.fromkeys(PEERS, f"127.0.0.1:{port}")
        given: dict[str, Any] = {"database_url": url, "http_port": 1, **addresses, **settings}
        async with build(OrderSettings(**given)) as entrances, serve_entrances(entrances) as entered:
            yield entered


@pytest_asyncio.fixture
async def url(make_database: MakeDatabase) -> str:
    url = await make_database("order", MIGRATIONS)
    async with open_bureau(url):
        return url


def wanted(style: str) -> Mapping[str, Any]:
    lines = [{"sku": "lamp", "quantity": 2}]
    return {"customer_id": "ada", "lines": lines, "card_token": "tok_ok", "ship_to": HARBOUR, "coordination": style}


async def post(http: httpx.AsyncClient, style: str, prefer: str = "") -> httpx.Response:
    headers = {"Idempotency-Key": f"key-{style}", "Prefer": prefer}
    return await http.post("/v1/orders", json=wanted(style), headers=headers)


async def test_every_style_is_taken_where_all_are_allowed(url: str) -> None:
    async with served(url, allow_naive=True) as (http, _):
        for style in COORDINATIONS:
            response = await post(http, style)
            assert (response.status_code, response.json()["coordination"]) == (202, style)


async def test_naive_orders_are_refused_unless_they_are_allowed(url: str) -> None:
    async with served(url) as (http, peer):
        response = await post(http, NAIVE)
        assert (response.status_code, response.json()["code"]) == (400, "naive-not-allowed")
        request = order_pb2.PlaceOrderRequest(
            idempotency_key="key",
            customer_id="ada",
            lines=[kernel_pb2.Line(sku="lamp", quantity=1)],
            card_token="tok_ok",
            ship_to=kernel_pb2.Address(**HARBOUR),
            coordination=NAIVE,
        )
        with pytest.raises(Invalid) as refused:
            await call(order_pb2_grpc.OrderServiceStub(peer).PlaceOrder, request, 5)
        assert refused.value.code == "naive-not-allowed"


async def test_participants_ask_the_coordinator_over_grpc(url: str) -> None:
    async with served(url) as (http, peer):
        order_id = (await post(http, TCC)).json()["order_id"]
        coordinator = RemoteCoordinator(ResolveCall(peer))
        assert await coordinator.resolve([order_id, "nobody's"]) == [Outcome.CANCEL, Outcome.CANCEL]
        history = (await http.get(f"/v1/orders/{order_id}/history")).json()
        assert [event["type"] for event in history["events"]] == ["OrderPlaced", "CheckoutWithdrawn"]
        with pytest.raises(Invalid):
            await coordinator.resolve(["o"] * 501)


async def test_who_waits_for_a_choreographed_order_hears_of_its_end_at_once(url: str, clean_redis: str) -> None:
    async with served(url, redis_url=clean_redis) as (http, _), asyncio.TaskGroup() as group:
        waiting = group.create_task(post(http, "choreographed", "wait=8"))
        async with open_bureau(url) as bureau:
            order_id = await placed(bureau)
            await say(clean_redis, events_pb2.StockRefused(order_id=order_id, code="out-of-stock"))
        response = await waiting
    assert (response.status_code, response.json()["status"]) == (201, "rejected")


async def test_its_events_reach_the_others_on_both_topics(url: str, clean_redis: str) -> None:
    async with served(url, redis_url=clean_redis) as (http, _):
        order_id = (await post(http, "choreographed")).json()["order_id"]
        cancel = {"Idempotency-Key": "cancel"}
        assert (await http.post(f"/v1/orders/{order_id}/cancel", headers=cancel)).status_code == 202
        broker = RedisStreamsBroker.open(clean_redis)
        heard: list[str] = []
        async with asyncio.timeout(10):
            while len(heard) < 2:
                deliveries = await broker.read("test", "test", ["orders", "checkouts"], 10, 1)
                heard += [one.type.rpartition(".")[2] for one in deliveries if one.subject == order_id]
        await broker.close()
    assert sorted(heard) == ["CheckoutWithdrawn", "OrderPlaced"]


async def placed(bureau: Bureau) -> str:
    """The id of the only choreographed order."""
    async with asyncio.timeout(5):
        while True:
            if found := await bureau.rows("SELECT order_id FROM choreographies"):
                return str(found[0][0])
            await asyncio.sleep(0.01)


async def say(redis_url: str, event: events_pb2.StockRefused) -> None:
    """As inventory's relay would."""
    broker = RedisStreamsBroker.open(redis_url)
    mark = Mark("epoch", Position(0, 0))
    await broker.begin("/services/inventory", mark)
    said = outgoing(event, "/services/inventory", HEARD, "", Ids(SystemClock()).new)
    await broker.publish("/services/inventory", mark, Position(1, 1), [said])
    await broker.close()
