"""The order service as its process builds it, over REST and gRPC: one order's timeline, in every style.

Nobody runs its loops here: what a coordinator or a consumer would have written is written by the test.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import httpx
import pytest
import pytest_asyncio

import services.order
from libs.runtime.clock import Ids, SystemClock
from libs.runtime.database import Database
from libs.runtime.grpc_edge import channel
from libs.saga.entries import AnyEntry, FaultKind, Parked, PivotDecided, StepDone, StepFailed, StepRefused, UndoDecided
from libs.saga.log import Line, Tail
from libs.saga.postgres_log import PostgresSagaLog
from proto.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from proto.order.v1 import order_pb2, order_pb2_grpc
from proto.participant.v1 import participant_pb2
from proto.payment.v1 import payment_pb2, payment_pb2_grpc
from services.order.adapters.choreographies import Heard, PostgresChoreographies
from services.order.adapters.trails import ASK_SECONDS
from services.order.config import OrderSettings
from services.order.domain import CHOREOGRAPHED, COORDINATIONS, NAIVE, ORCHESTRATED, TCC, TWO_PHASE
from services.order.main import build
from services.order.saga import INPUTS
from tests.conftest import MakeDatabase
from tests.integration.edge.serving import closed_port, serve_grpc, serve_http

MIGRATIONS = Path(services.order.__path__[0]) / "migrations"
ADA = {"name": "Ada", "street": "Quay 1", "city": "Hamburg", "postcode": "20457", "zone": "DE"}
# Longer ago than anything else that happens here.
HELD_MS = 1_700_000_000_000
HELD_AT = datetime.fromtimestamp(HELD_MS / 1000, UTC)


class Inventory(inventory_pb2_grpc.InventoryServiceServicer):
    """Held stock, and let it go; asked to do anything it is not there."""

    async def GetTrail(self, request: inventory_pb2.GetTrailRequest, context: Any) -> inventory_pb2.GetTrailResponse:
        held = participant_pb2.Moment(
            at_unix_ms=HELD_MS, what="stock held", step="deduct-stock", detail=request.transaction_id
        )
        kept = participant_pb2.Keeping(what="stock held", since_unix_ms=HELD_MS, until_unix_ms=HELD_MS + 250)
        return inventory_pb2.GetTrailResponse(trail=participant_pb2.Trail(moments=[held], kept=[kept]))


class Payment(payment_pb2_grpc.PaymentServiceServicer):
    """Still has the money authorised; and keeps whoever asks waiting, once it is told to."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()

    async def GetTrail(self, request: payment_pb2.GetTrailRequest, context: Any) -> payment_pb2.GetTrailResponse:
        await self.answers.wait()
        kept = participant_pb2.Keeping(what="money authorised", since_unix_ms=HELD_MS + 1)
        return payment_pb2.GetTrailResponse(trail=participant_pb2.Trail(kept=[kept]))


@dataclass(frozen=True, slots=True)
class Room:
    """The service with its database; inventory and payment tell what they did, shipping is down."""

    url: str
    database: Database
    http: httpx.AsyncClient
    # Known to type checkers only.
    stub: "order_pb2_grpc.OrderServiceAsyncStub"
    payment: Payment

    async def place(self, coordination: str) -> str:
        body = {
            "customer_id": "ada",
            "lines": [{"sku": "lamp", "quantity": 2}],
            "card_token": "tok_ok",
            "ship_to": ADA,
            "coordination": coordination,
        }
        key = Ids(SystemClock()).new("key")
        response = await self.http.post("/v1/orders", json=body, headers={"Idempotency-Key": key})
        assert response.status_code == 202, response.text
        return str(response.json()["order_id"])

    async def timeline(self, order_id: str) -> dict[str, Any]:
        response = await self.http.get(f"/v1/orders/{order_id}/timeline")
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def note(self, order_id: str, *entries: AnyEntry) -> datetime:
        """Writes what the order's coordinator would have noted; when it noted the last of it."""
        log = PostgresSagaLog(self.database, INPUTS, SystemClock())
        begun = (await log.load([order_id]))[order_id].lines
        at = SystemClock().now()
        first = len(begun) + 1
        lines = [Line(seq, at + timedelta(milliseconds=seq), entry) for seq, entry in enumerate(entries, first)]
        assert not await log.write([Tail(order_id, lines)])
        return lines[-1].at

    async def choreographies(self, order_id: str, *events: str) -> None:
        """Writes what the order would have heard; "Parked" leaves it to an operator."""
        for event in events:
            async with self.database.transaction() as connection:
                table = PostgresChoreographies(connection, 30.0)
                if event == "Parked":
                    await table.park([(order_id, "nothing followed")])
                else:
                    await table.hear([Heard(order_id, event, "as it says")])

    async def rows(self, query: str, *values: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url)
        try:
            return list(await connection.fetch(query, *values))
        finally:
            await connection.close()


@pytest_asyncio.fixture
async def room(make_database: MakeDatabase) -> AsyncIterator[Room]:
    url = await make_database("timeline", MIGRATIONS)
    payment = Payment()  # type: ignore[abstract]  # the other methods answer UNIMPLEMENTED
    async with _peers(payment) as addresses, AsyncExitStack() as closing:
        settings = OrderSettings(database_url=url, http_port=1, allow_naive=True, **addresses)
        entrances = await closing.enter_async_context(build(settings))
        server = entrances.grpc_server
        assert server is not None
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        database = Database.open(url, 2, "test")
        async with serve_http(entrances.app) as client, channel(f"127.0.0.1:{port}") as peer:
            made = Room(url, database, client, order_pb2_grpc.OrderServiceStub(peer), payment)
            await made.rows("INSERT INTO catalogue VALUES ('lamp', 'Lamp', 4900, 'EUR', 1)")
            yield made
        payment.answers.set()
        await server.stop(0)
        await database.close()
        for drain in entrances.drain:
            await drain()


@asynccontextmanager
async def _peers(payment: Payment) -> AsyncIterator[dict[str, Any]]:
    inventory = Inventory()  # type: ignore[abstract]  # the other methods answer UNIMPLEMENTED

    def add_inventory(server: grpc.aio.Server) -> None:
        inventory_pb2_grpc.add_InventoryServiceServicer_to_server(inventory, server)

    def add_payment(server: grpc.aio.Server) -> None:
        payment_pb2_grpc.add_PaymentServiceServicer_to_server(payment, server)

    async with (
        serve_grpc("inventory", add_inventory) as (inventory_address, _),
        serve_grpc("payment", add_payment) as (payment_address, _),
    ):
        with closed_port() as port:
            yield {
                "inventory_address": inventory_address,
                "payment_address": payment_address,
                "shipping_address": f"127.0.0.1:{port}",
            }


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("coordination", COORDINATIONS)
async def test_what_the_services_did_and_kept_is_told_in_every_style(room: Room, coordination: str) -> None:
    order_id = await room.place(coordination)
    timeline = await room.timeline(order_id)
    assert (timeline["order_id"], timeline["coordination"]) == (order_id, coordination)
    first, placed, *_, last = timeline["entries"]
    assert (first["service"], first["what"], first["kind"], first["detail"]) == (
        "inventory", "stock held", "effect", order_id,
    )  # fmt: skip
    assert (placed["service"], placed["what"], placed["kind"]) == ("order", "OrderPlaced", "event")
    assert (last["service"], last["what"], last["kind"]) == ("shipping", "unavailable", "unavailable")
    stock, money = timeline["kept"]
    assert (stock["service"], instant(stock["since"])) == ("inventory", HELD_AT)
    assert instant(stock["until"]) - instant(stock["since"]) == timedelta(milliseconds=250)
    assert (money["service"], money["what"], money["until"]) == ("payment", "money authorised", None)


@pytest.mark.parametrize(
    ("coordination", "entries", "state", "waits_for"),
    [
        (
            ORCHESTRATED,
            (StepDone("place-order"), StepFailed("deduct-stock", 1, FaultKind.UNAVAILABLE, "down")),
            "running",
            "deduct-stock (try 2)",
        ),
        (
            TCC,
            (StepDone("place-order"), StepDone("hold-payment"), StepDone("hold-shipment")),
            "running",
            "hold-stock (try 1)",
        ),
        (
            TWO_PHASE,
            (
                StepDone("place-order"),
                StepDone("prepare-stock"),
                StepRefused("prepare-payment", "card-declined", "no"),
                UndoDecided("prepare-payment", "card-declined", "no"),
            ),
            "undoing",
            "the undo of prepare-stock (try 1)",
        ),
        (
            TCC,
            (
                *(StepDone(name) for name in ("place-order", "hold-stock", "hold-payment", "hold-shipment")),
                PivotDecided("decide-confirm"),
                StepDone("decide-confirm"),
                Parked("step confirm-stock failed 60 times"),
            ),
            "parked",
            "an operator: step confirm-stock failed 60 times",
        ),
    ],
)
async def test_an_unfinished_coordinated_order_says_what_it_waits_for_since_when(
    room: Room, coordination: str, entries: tuple[AnyEntry, ...], state: str, waits_for: str
) -> None:
    order_id = await room.place(coordination)
    since = await room.note(order_id, *entries)
    timeline = await room.timeline(order_id)
    assert (timeline["state"], timeline["waits_for"]) == (state, waits_for)
    assert instant(timeline["waits_since"]) == since
    assert [one["attempt"] for one in timeline["entries"] if one["what"] == "deduct-stock unavailable"] == (
        [1] if coordination == ORCHESTRATED else []
    )


@pytest.mark.parametrize(
    ("heard", "state", "waits_for"),
    [
        ((), "running", "its first reaction"),
        (("StockDeducted",), "running", "what follows StockDeducted"),
        (("StockDeducted", "PaymentRefused"), "undoing", "what follows PaymentRefused"),
        (("StockDeducted", "Parked"), "parked", "an operator: nothing followed"),
    ],
)
async def test_an_unfinished_choreographed_order_says_what_it_waits_for_since_when(
    room: Room, heard: tuple[str, ...], state: str, waits_for: str
) -> None:
    order_id = await room.place(CHOREOGRAPHED)
    await room.choreographies(order_id, *heard)
    timeline = await room.timeline(order_id)
    assert (timeline["state"], timeline["waits_for"]) == (state, waits_for)
    ((moved_at,),) = await room.rows("SELECT moved_at FROM choreographies WHERE order_id = $1", order_id)
    assert instant(timeline["waits_since"]) == moved_at
    messages = [one["what"] for one in timeline["entries"] if one["kind"] == "message"]
    assert messages == [
        "said OrderPlaced", *("parked" if event == "Parked" else f"heard {event}" for event in heard)
    ]  # fmt: skip


async def test_a_choreographed_order_whose_customer_cancels_says_so_and_waits_for_what_comes_back(room: Room) -> None:
    order_id = await room.place(CHOREOGRAPHED)
    response = await room.http.post(f"/v1/orders/{order_id}/cancel", headers={"Idempotency-Key": "rain"})
    assert response.status_code == 202
    timeline = await room.timeline(order_id)
    assert (timeline["state"], timeline["waits_for"]) == ("undoing", "what follows CheckoutWithdrawn")
    assert "said CheckoutWithdrawn" in [one["what"] for one in timeline["entries"]]


async def test_an_unfinished_naive_order_waits_since_the_last_thing_that_happened(room: Room) -> None:
    timeline = await room.timeline(await room.place(NAIVE))
    assert (timeline["state"], timeline["waits_for"]) == ("running", "the answer to its next call")
    placed = next(one for one in timeline["entries"] if one["what"] == "OrderPlaced")
    assert timeline["waits_since"] == placed["at"]


async def test_a_service_that_does_not_answer_in_time_is_missing_and_nobody_waits_for_it(room: Room) -> None:
    order_id = await room.place(TCC)
    room.payment.answers.clear()
    async with asyncio.timeout(ASK_SECONDS + 5):
        timeline = await room.timeline(order_id)
    missing = {one["service"] for one in timeline["entries"] if one["kind"] == "unavailable"}
    assert missing == {"payment", "shipping"}
    assert [one["service"] for one in timeline["kept"]] == ["inventory"]


async def test_both_entrances_tell_the_same(room: Room) -> None:
    order_id = await room.place(TCC)
    rest = await room.timeline(order_id)
    told = await room.stub.GetOrderTimeline(order_pb2.GetOrderTimelineRequest(order_id=order_id))
    assert (told.coordination, told.state, told.waits_for) == (TCC, rest["state"], rest["waits_for"])
    assert told.waits_since.ToDatetime(UTC) == instant(rest["waits_since"])
    assert [(one.service, one.what, one.step, one.attempt, one.kind) for one in told.entries] == [
        (one["service"], one["what"], one["step"], one["attempt"], one["kind"]) for one in rest["entries"]
    ]
    assert [(one.service, one.what, one.HasField("until")) for one in told.kept] == [
        ("inventory", "stock held", True), ("payment", "money authorised", False),
    ]  # fmt: skip


async def test_there_is_no_timeline_of_an_order_that_does_not_exist(room: Room) -> None:
    assert (await room.http.get("/v1/orders/ord_none/timeline")).status_code == 404
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await room.stub.GetOrderTimeline(order_pb2.GetOrderTimelineRequest(order_id="ord_none"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
