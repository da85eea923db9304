"""Payment's part of the choreographed checkout: what it hears, what it does about it, and what it says."""

import asyncio
from typing import Any

import asyncpg
import pytest
from google.protobuf.message import Message
from sqlalchemy.exc import IntegrityError

from libs.choreography.events import CHECKOUTS_TOPIC
from libs.kernel.errors import InDoubt
from libs.messaging.event import Delivery
from proto.events.v1 import events_pb2
from proto.kernel.v1 import kernel_pb2
from services.payment.domain import Payment, payment_id_of
from services.payment.following import WORKERS, Begun, Following
from tests.integration.payment.test_holds import NEVER, books
from tests.integration.payment.till import PRICE, ScriptedProcessor, Till, rows

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def heard(order_id: str, event: Message) -> Delivery:
    type_ = event.DESCRIPTOR.full_name
    data = event.SerializeToString()
    return Delivery(
        f"evt-{order_id}-{type_}", CHECKOUTS_TOPIC, type_, "test", order_id, "", TRACE, data, "stream", "0-1"
    )


def deducted(order_id: str, card: str = "tok_ok", amount: int = PRICE.minor_units) -> Delivery:
    total = kernel_pb2.Money(minor_units=amount, currency=PRICE.currency)
    checkout = events_pb2.Checkout(order_id=order_id, customer_id="ada", total=total, card_token=card)
    return heard(order_id, events_pb2.StockDeducted(checkout=checkout))


def cancelled(order_id: str) -> Delivery:
    return heard(order_id, events_pb2.ShipmentCancelled(order_id=order_id, code="customer-request", message="no"))


def refused(order_id: str) -> Delivery:
    return heard(order_id, events_pb2.ShipmentRefused(order_id=order_id, code="no-capacity", message="full"))


async def said(till: Till) -> list[str]:
    """Each event in the outbox in a few words."""
    found = await rows(till.url, "SELECT type, (subject, data) FROM outbox ORDER BY sequence")
    return [_words(type_.rpartition(".")[2], *rest) for type_, rest in found]  # type: ignore[misc]


def _words(name: str, subject: str, data: bytes) -> str:
    event: Any = getattr(events_pb2, name).FromString(data)
    assert event.HasField("at")
    if name == "PaymentCharged":
        assert (event.checkout.order_id, event.checkout.customer_id) == (subject, "ada")
        assert event.payment_id == payment_id_of(subject, "charge")
        return f"{name} {subject}"
    assert event.order_id == subject
    return f"{name} {subject} {event.code}"


async def owed(till: Till) -> list[tuple[str, int]]:
    return await rows(till.url, "SELECT operation || ' ' || transaction_id, 1 FROM owed_events ORDER BY 1")


async def test_the_processor_is_asked_after_the_commit_and_what_came_of_it_is_said_with_it(
    till: Till, processor: ScriptedProcessor
) -> None:
    await till.hear(deducted("o1"))
    assert (await till.status("o1"), await owed(till), await said(till)) == ("charging", [("do o1", 1)], [])
    assert not processor.asked
    await till.follow()
    assert (await till.status("o1"), await owed(till), await said(till)) == ("charged", [], ["PaymentCharged o1"])
    assert await books(till, processor) == (4900, 1)


async def test_what_is_said_goes_to_the_checkouts_in_the_trace_of_what_was_heard(till: Till) -> None:
    await till.hear(deducted("o1"))
    assert [one.traceparent for one in till.followed] == [TRACE]
    await till.follow()
    ((about, _),) = await rows(till.url, "SELECT topic || ' ' || traceparent || ' ' || source, 1 FROM outbox")
    assert about == f"checkouts {TRACE} /services/payment"


async def test_who_is_declined_hears_why_and_the_others_are_charged(till: Till, processor: ScriptedProcessor) -> None:
    await till.hear(deducted("o1"), deducted("o2", card="tok_declined"), deducted("o3", amount=0))
    await till.follow()
    assert await said(till) == ["PaymentRefused o3 invalid", "PaymentCharged o1", "PaymentRefused o2 card-declined"]
    assert await books(till, processor) == (4900, 1)


@pytest.mark.parametrize("back", [cancelled, refused])
async def test_a_checkout_that_goes_back_gets_its_money_back(
    till: Till, processor: ScriptedProcessor, back: Any
) -> None:
    await till.hear(deducted("o1"))
    await till.follow()
    await till.hear(back("o1"))
    assert (await till.status("o1"), await owed(till)) == ("refunding", [("undo o1", 1)])
    await till.follow()
    assert [one.partition(" ")[0] for one in await said(till)] == ["PaymentCharged", "PaymentRefunded"]
    assert (await till.status("o1"), await books(till, processor)) == ("refunded", (0, 0))


async def test_going_back_goes_on_also_where_nothing_was_charged(till: Till, processor: ScriptedProcessor) -> None:
    await till.hear(cancelled("o1"))
    await till.hear(deducted("o1"))
    assert await said(till) == ["PaymentRefunded o1 customer-request", "PaymentRefused o1 undone-before-done"]
    assert (till.followed, processor.asked) == ([], {})


async def test_a_checkout_that_goes_back_while_it_is_charged_ends_without_money(
    till: Till, processor: ScriptedProcessor
) -> None:
    await till.hear(deducted("o1"), cancelled("o1"))
    assert await owed(till) == [("do o1", 1), ("undo o1", 1)]
    await till.follow()
    assert await said(till) == ["PaymentCharged o1", "PaymentRefunded o1 customer-request"]
    assert (await till.status("o1"), await owed(till), await books(till, processor)) == ("refunded", [], (0, 0))


async def test_a_checkout_that_goes_back_while_its_card_is_declined_goes_back_all_the_way(till: Till) -> None:
    await till.hear(deducted("o1", card="tok_declined"), cancelled("o1"))
    await till.follow()
    assert await said(till) == ["PaymentRefused o1 card-declined", "PaymentRefunded o1 customer-request"]
    assert await owed(till) == []


async def test_who_asks_again_is_answered_again_and_nothing_happens_twice(
    till: Till, processor: ScriptedProcessor
) -> None:
    for event in (deducted("o1"), deducted("o1")):
        await till.hear(event)
    assert await owed(till) == [("do o1", 1)]
    await till.follow()
    assert await said(till) == ["PaymentCharged o1"]
    for event in (deducted("o1"), cancelled("o1"), cancelled("o1")):
        await till.hear(event)
        await till.follow()
    assert (await said(till))[1:] == ["PaymentCharged o1"] + ["PaymentRefunded o1 customer-request"] * 2
    assert await books(till, processor) == (0, 0)


async def test_a_charge_that_was_begun_by_a_command_is_said_to_who_hears_of_it_meanwhile(
    till: Till, processor: ScriptedProcessor
) -> None:
    processor.failing.extend(NEVER)
    with pytest.raises(InDoubt):
        await till.charge("o1")
    await till.hear(deducted("o1"))
    await till.follow()
    assert await said(till) == ["PaymentCharged o1"]
    assert (await till.charge("o1")).payment_id == payment_id_of("o1", "charge")
    assert await books(till, processor) == (4900, 1)


async def test_what_was_begun_by_an_event_is_carried_on_and_said_though_its_process_died(
    till: Till, processor: ScriptedProcessor
) -> None:
    await till.hear(deducted("o1"), deducted("o2", card="tok_declined"))
    till.followed.clear()
    await till.resume()
    assert sorted(await said(till)) == ["PaymentCharged o1", "PaymentRefused o2 card-declined"]
    await till.hear(cancelled("o1"))
    till.followed.clear()
    await till.resume()
    assert (await said(till))[2:] == ["PaymentRefunded o1 customer-request"]
    assert (await owed(till), await books(till, processor)) == ([], (0, 0))


async def test_an_answer_that_is_lost_is_said_when_it_is_found(till: Till, processor: ScriptedProcessor) -> None:
    processor.lost.extend(NEVER)
    await till.hear(deducted("o1"))
    await till.follow()
    assert (await said(till), await owed(till)) == ([], [("do o1", 1)])
    await till.resume()
    assert (await said(till), await books(till, processor)) == (["PaymentCharged o1"], (4900, 1))


async def test_what_did_not_commit_is_never_asked_of_the_processor(till: Till) -> None:
    async with till.database.transaction() as connection:
        await till.checkouts.apply(connection, [deducted("o1")])
        await connection.rollback()
    await till.hear(deducted("o2"))
    assert [one.payment.transaction_id for one in till.followed] == ["o2"]


async def test_the_end_of_a_payment_and_its_announcement_are_one_transaction(
    till: Till, processor: ScriptedProcessor
) -> None:
    await till.hear(deducted("o1"))
    await _execute(till.url, "ALTER TABLE outbox ADD CONSTRAINT mute CHECK (topic <> 'checkouts')")
    await till.follow()
    assert (await till.status("o1"), await owed(till), await till.ledger()) == ("charging", [("do o1", 1)], {})
    with pytest.raises(IntegrityError, match="mute"):
        await till.hear(cancelled("o2"))
    await _execute(till.url, "ALTER TABLE outbox DROP CONSTRAINT mute")
    await till.resume()
    assert (await said(till), await books(till, processor)) == (["PaymentCharged o1"], (4900, 1))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


# The queue between the commit and the processor.


async def test_the_queue_has_an_end_and_what_does_not_fit_is_left_to_the_resuming_loop(till: Till) -> None:
    carried: list[str] = []
    done = asyncio.Event()

    async def carry_on(payment: Payment) -> None:
        carried.append(payment.transaction_id)
        if len(carried) == WORKERS:
            done.set()

    following = Following(carry_on, waiting_max=WORKERS)
    names = [f"o{number}" for number in range(WORKERS + 3)]
    following.follow([Begun(till.payment(name), "") for name in names])
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        running = group.create_task(following.run())
        await done.wait()
        running.cancel()
    assert sorted(carried) == sorted(names[:WORKERS])
