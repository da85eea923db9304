"""The service as those use it who hold, prepare or choreograph, with the real processor behind it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import redis.asyncio
from google.protobuf.message import Message

from libs.choreography.events import CHECKOUTS_TOPIC, PACKAGE
from libs.kernel.errors import Invalid
from libs.messaging.redis_streams import stream_of
from libs.runtime.grpc_edge import call
from proto.coordination.v1 import coordination_pb2, coordination_pb2_grpc
from proto.events.v1 import events_pb2
from proto.kernel.v1 import kernel_pb2
from proto.participant.v1 import participant_pb2
from proto.payment.v1 import payment_pb2
from services.payment.domain import payment_id_of
from tests.conftest import MakeDatabase
from tests.integration.edge.serving import serve_grpc
from tests.integration.payment.serving import Served, serve_payment
from tests.integration.payment.test_entrances import CONFIRM, DO, UNDO, batch, charged_at, command, until_answered
from tests.integration.payment.till import MIGRATIONS

AT_ONCE, HOLD, PREPARE = (
    participant_pb2.MANNER_UNSPECIFIED,
    participant_pb2.MANNER_HOLD,
    participant_pb2.MANNER_PREPARE,
)
MANNERS = [AT_ONCE, HOLD, PREPARE]
T1 = payment_id_of("t1", "charge")


async def statuses_at(psp: httpx.AsyncClient) -> list[str]:
    return [charge["status"] for charge in (await psp.get("/v1/charges")).json()["charges"]]


async def status(payment: Served, payment_id: str) -> str:
    return str((await payment.http.get(f"/v1/payments/{payment_id}")).json()["status"])


async def statement(payment: Served) -> list[str]:
    postings = (await payment.http.get("/v1/accounts/ada/postings")).json()["postings"]
    return [posting["memo"] for posting in postings]


@pytest.mark.parametrize("manner", [HOLD, PREPARE])
@pytest.mark.parametrize("card", ["tok_ok", "tok_slow", "tok_lost_response", "tok_flaky"])
async def test_a_coordinator_has_money_set_aside_and_then_captured(
    payment: Served, psp: httpx.AsyncClient, manner: participant_pb2.Manner.ValueType, card: str
) -> None:
    assert await until_answered(payment, command("t1", DO, card, manner=manner)) == "charged"
    assert (await status(payment, T1), await statuses_at(psp)) == ("authorised", ["authorised"])
    assert await statement(payment) == []
    for _ in range(2):
        assert await batch(payment, command("t1", CONFIRM, manner=manner)) == ["captured"]
    assert (await status(payment, T1), await charged_at(psp)) == ("charged", [4900])
    assert await statement(payment) == ["charge"]


@pytest.mark.parametrize("manner", [HOLD, PREPARE])
async def test_a_coordinator_gives_up_what_it_had_set_aside(
    payment: Served, psp: httpx.AsyncClient, manner: participant_pb2.Manner.ValueType
) -> None:
    await batch(payment, command("t1", DO, manner=manner))
    for _ in range(2):
        assert await batch(payment, command("t1", UNDO, manner=manner)) == ["refunded"]
    assert (await status(payment, T1), await statuses_at(psp)) == ("voided", ["voided"])
    assert await statement(payment) == []
    account = (await payment.http.get("/v1/accounts/ada")).json()
    assert account["charged"]["minor_units"] == 0
    over_grpc = await call(payment.stub.GetPayment, payment_pb2.GetPaymentRequest(payment_id=T1), 5)
    assert over_grpc.payment.status == payment_pb2.PAYMENT_STATUS_VOIDED


@pytest.mark.parametrize("manner", MANNERS)
async def test_an_undo_that_comes_first_wins_in_every_manner(
    payment: Served, psp: httpx.AsyncClient, manner: participant_pb2.Manner.ValueType
) -> None:
    assert await batch(payment, command("t1", UNDO, manner=manner)) == ["nothing refunded"]
    assert await batch(payment, command("t1", DO, manner=manner)) == ["undone-before-done"]
    assert await statuses_at(psp) == []


@pytest.mark.parametrize("manner", MANNERS)
async def test_a_cancelled_order_names_no_manner(
    payment: Served, psp: httpx.AsyncClient, manner: participant_pb2.Manner.ValueType
) -> None:
    await batch(payment, command("t1", DO, manner=manner))
    if manner != AT_ONCE:
        await batch(payment, command("t1", CONFIRM, manner=manner))
    assert await batch(payment, command("t1", UNDO)) == ["refunded"]
    # The undo is the same one, whoever asks for it.
    assert await batch(payment, command("t1", UNDO, manner=manner)) == ["refunded"]
    assert (await status(payment, T1), await charged_at(psp)) == ("refunded", [0])


async def test_a_slow_card_that_is_given_up_before_it_answered_is_never_authorised(
    payment: Served, psp: httpx.AsyncClient
) -> None:
    assert await batch(payment, command("t1", card="tok_slow", manner=HOLD)) == ["still-running IN_DOUBT"]
    assert await until_answered(payment, command("t1", UNDO, manner=HOLD)) == "refunded"
    assert await until_answered(payment, command("t1", card="tok_slow", manner=HOLD)) == "undone-before-done"
    assert (await status(payment, T1), await statuses_at(psp)) == ("voided", ["voided"])


async def test_commands_of_every_manner_share_a_batch(payment: Served) -> None:
    told = await batch(
        payment,
        command("t1", DO, manner=HOLD),
        command("t2", DO),
        command("t3", DO, "tok_declined", manner=PREPARE),
        command("t4", CONFIRM, manner=HOLD),
        command("t5", UNDO, manner=PREPARE),
        command("t6", DO, manner=HOLD, step="tip"),
        command("ä", DO, manner=PREPARE),
    )
    assert told == ["charged", "charged", "card-declined", "nothing-held", "nothing refunded", "invalid", "invalid"]


# What happened.


async def trail(payment: Served, transaction_id: str = "t1") -> tuple[list[str], list[tuple[str, bool]]]:
    """What was done, and what was kept and whether that has ended; the same over both entrances."""
    rest = (await payment.http.get(f"/v1/transactions/{transaction_id}/trail")).json()
    told = (
        [moment["what"] for moment in rest["moments"]],
        [(kept["what"], kept["until"] is not None) for kept in rest["kept"]],
    )
    spoken = (await call(payment.stub.GetTrail, payment_pb2.GetTrailRequest(transaction_id=transaction_id), 5)).trail
    assert told == (
        [moment.what for moment in spoken.moments],
        [(kept.what, kept.until_unix_ms > 0) for kept in spoken.kept],
    )
    assert all(moment.step == "charge" and moment.at_unix_ms > 0 for moment in spoken.moments)
    return told


async def test_the_trail_of_a_charge(payment: Served) -> None:
    assert await trail(payment) == ([], [])
    await batch(payment, command("t1"))
    assert await trail(payment) == (["card charged"], [])
    await batch(payment, command("t1", UNDO))
    assert await trail(payment) == (["card charged", "charge refunded"], [])


@pytest.mark.parametrize("manner", [HOLD, PREPARE])
async def test_the_trail_of_an_authorisation(payment: Served, manner: participant_pb2.Manner.ValueType) -> None:
    await batch(payment, command("t1", DO, manner=manner), command("t2", DO, manner=manner))
    assert await trail(payment) == (["card authorised"], [("money authorised", False)])
    await batch(payment, command("t1", CONFIRM, manner=manner), command("t2", UNDO, manner=manner))
    assert await trail(payment) == (["card authorised", "charge captured"], [("money authorised", True)])
    assert await trail(payment, "t2") == (["card authorised", "authorisation voided"], [("money authorised", True)])


async def test_the_trail_of_a_refusal(payment: Served) -> None:
    await batch(payment, command("t1", DO, "tok_declined", manner=HOLD))
    assert await trail(payment) == (["card authorised: refused card-declined"], [])


async def test_a_trail_belongs_to_a_transaction(payment: Served) -> None:
    assert (await payment.http.get("/v1/transactions/a%00b/trail")).status_code in {400, 422}
    for wrong in ("", "a\0b"):
        with pytest.raises(Invalid):
            await call(payment.stub.GetTrail, payment_pb2.GetTrailRequest(transaction_id=wrong), 5)


# Who kept something for too long asks.


class Decided(coordination_pb2_grpc.CoordinatorServiceServicer):
    """Confirms the transactions whose name says so."""

    async def Resolve(self, request: coordination_pb2.ResolveRequest, context: Any) -> coordination_pb2.ResolveResponse:
        outcomes = [
            coordination_pb2.OUTCOME_CONFIRM if name.startswith("yes") else coordination_pb2.OUTCOME_CANCEL
            for name in request.transaction_ids
        ]
        return coordination_pb2.ResolveResponse(outcomes=outcomes)


@asynccontextmanager
async def serve_coordinator() -> AsyncIterator[str]:
    service = coordination_pb2.DESCRIPTOR.services_by_name["CoordinatorService"].full_name

    def add(server: Any) -> None:
        coordination_pb2_grpc.add_CoordinatorServiceServicer_to_server(Decided(), server)

    async with serve_grpc(service, add) as (address, _):
        yield address


async def test_what_is_kept_for_too_long_is_ended_by_asking_the_coordinator(
    make_database: MakeDatabase, psp: httpx.AsyncClient
) -> None:
    async with serve_coordinator() as address:
        served = serve_payment(
            await make_database("payment", MIGRATIONS),
            str(psp.base_url),
            coordinator_address=address,
            prepared_patience_seconds=0.0,
            inquiry_every_seconds=0.01,
        )
        async with served as payment:
            names = ["yes-held", "no-held", "yes-prepared", "no-prepared"]
            for name in names:
                manner = HOLD if name.endswith("held") else PREPARE
                assert await batch(payment, command(name, DO, manner=manner, lease_ms=1)) in (
                    ["charged"],
                    ["undone-before-done"],
                )
            wanted = ["charged", "voided", "charged", "voided"]
            async with asyncio.timeout(10):
                while [await status(payment, payment_id_of(name, "charge")) for name in names] != wanted:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # another process's decision sets no event of ours
            assert await batch(
                payment, command("yes-held", CONFIRM, manner=HOLD), command("no-prepared", UNDO, manner=PREPARE)
            ) == ["captured", "refunded"]
            assert sorted(await statuses_at(psp)) == ["captured", "captured", "voided", "voided"]


# Who tells it what happened, and hears what came of it.


async def test_a_checkout_is_charged_and_refunded_over_the_broker(
    make_database: MakeDatabase, psp: httpx.AsyncClient, clean_redis: str
) -> None:
    total = kernel_pb2.Money(minor_units=4900, currency="EUR")
    checkout = events_pb2.Checkout(order_id="o1", customer_id="ada", total=total, card_token="tok_lost_response")
    database = await make_database("payment", MIGRATIONS)
    async with (
        redis.asyncio.Redis.from_url(clean_redis) as broker,
        serve_payment(database, str(psp.base_url), redis_url=clean_redis, resume_after_seconds=3600.0) as payment,
    ):
        await say(broker, events_pb2.StockDeducted(checkout=checkout))
        charged = await heard(broker, 2)
        assert charged == [f"{PACKAGE}StockDeducted", f"{PACKAGE}PaymentCharged"]
        assert (await status(payment, payment_id_of("o1", "charge")), await charged_at(psp)) == ("charged", [4900])
        await say(broker, events_pb2.ShipmentRefused(order_id="o1", code="no-capacity", message="full"))
        assert (await heard(broker, 4))[2:] == [f"{PACKAGE}ShipmentRefused", f"{PACKAGE}PaymentRefunded"]
        assert await charged_at(psp) == [0]


async def say(broker: Any, event: Message) -> None:
    """Puts an event about o1 on the stream as a relay would."""
    type_ = event.DESCRIPTOR.full_name
    about = {"specversion": "1.0", "id": f"evt-{type_}", "type": type_, "source": "/tests", "subject": "o1"}
    more = {"time": "2026-01-31T12:00:00+00:00", "traceparent": "", "data": event.SerializeToString()}
    await broker.xadd(stream_of(CHECKOUTS_TOPIC, "o1"), {**about, **more})


async def heard(broker: Any, count: int) -> list[str]:
    """The types of the first events about o1, once there are so many."""
    async with asyncio.timeout(15):
        while True:
            found = await broker.xrange(stream_of(CHECKOUTS_TOPIC, "o1"))
            if len(found) >= count:
                return [fields[b"type"].decode() for _, fields in found]
            await asyncio.sleep(0.02)
