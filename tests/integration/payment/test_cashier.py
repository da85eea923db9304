"""Charging and refunding from end to end, with a processor that fails, dawdles and loses its answers."""

import asyncio
from dataclasses import replace

import pytest

from libs.kernel.errors import DockyardError, InDoubt, Invalid, Mismatch, NotFound, Refused, Unavailable
from libs.kernel.money import Money
from libs.resilience.deadline import Deadline
from libs.runtime.clock import ManualClock
from libs.tcc.barrier import Entry, Key, Operation
from services.payment.cashier import ATTEMPTS_MAX, FAILURES_MAX, RESUME_ROWS_MAX
from services.payment.domain import Charged, Payment, Verdict, payment_id_of
from services.payment.handlers import BeginCharge, BeginRefund, Done, SettleCharge
from tests.conftest import MakeDatabase
from tests.integration.payment.till import MIGRATIONS, PRICE, QuickClock, ScriptedProcessor, Till, open_till

DONE = Done(payment_id_of("t1", "charge"), PRICE)
CHARGE = f"charge {DONE.payment_id}"
REFUND = f"refund {DONE.payment_id}"
PATIENCE_SECONDS = 10.0


async def books(till: Till, processor: ScriptedProcessor) -> tuple[int, int]:
    """What ada was charged: by the ledger, which must sum to zero, and by the processor, in charges."""
    ledger = await till.ledger()
    assert sum(ledger.values()) == 0
    return ledger.get("customer:ada", 0), sum(processor.moved.values())


async def all_begun(till: Till, transaction_id: str) -> None:
    """Returns when everybody who asked for this charge before knows that the processor has to be asked."""
    other = Entry(Key(transaction_id, "charge", Operation.DO), b"another request")
    with pytest.raises(Mismatch):  # order is kept within a key: those before are through
        await till.beginning.submit(BeginCharge(other, till.payment(transaction_id)))
    await asyncio.sleep(0)


async def outcome(work: asyncio.Task[Done]) -> str:
    try:
        return "done" if (await work).payment_id else "nothing"
    except DockyardError as error:
        return error.code


async def test_a_charge_is_asked_for_once_however_often_it_is_wanted_at_once(
    till: Till, processor: ScriptedProcessor
) -> None:
    processor.open.clear()
    async with asyncio.TaskGroup() as group:
        wanted = [group.create_task(till.charge("t1")) for _ in range(5)]
        await processor.until_asked(CHARGE)
        await all_begun(till, "t1")
        processor.open.set()
    assert {one.result() for one in wanted} == {DONE}
    assert processor.asked[CHARGE] == 1
    assert await books(till, processor) == (4900, 1)


async def test_whoever_gives_up_waiting_leaves_the_charge_to_the_next_who_asks(
    till: Till, processor: ScriptedProcessor
) -> None:
    processor.open.clear()
    async with asyncio.TaskGroup() as group:
        impatient = group.create_task(till.charge("t1"))
        await processor.until_asked(CHARGE)
        impatient.cancel()
        patient = group.create_task(till.charge("t1"))
        processor.open.set()
    assert patient.result() == DONE
    assert (impatient.cancelled(), processor.asked[CHARGE]) == (True, 1)


async def test_a_lost_answer_is_asked_for_again_and_charges_once(till: Till, processor: ScriptedProcessor) -> None:
    processor.lost.append(InDoubt("lost"))
    assert await till.charge("t1") == DONE
    assert processor.asked[CHARGE] == 2
    assert await books(till, processor) == (4900, 1)


async def test_a_processor_that_says_when_is_not_asked_earlier(till: Till, processor: ScriptedProcessor) -> None:
    processor.failing.append(Unavailable("busy", retry_after_seconds=3.0))
    before = till.clock.monotonic()
    await till.charge("t1")
    assert till.clock.monotonic() - before >= 3.0


async def test_a_decline_is_final_and_keeps_its_reason(till: Till, processor: ScriptedProcessor) -> None:
    for _ in range(2):
        with pytest.raises(Refused, match="the issuer declined the card") as declined:
            await till.charge("t1", "tok_declined")
        assert declined.value.code == "card-declined"
    assert processor.asked[CHARGE] == 1
    assert await books(till, processor) == (0, 0)


async def test_nobody_is_told_that_nothing_happened_to_what_will_be_carried_on(
    till: Till, processor: ScriptedProcessor
) -> None:
    processor.failing.extend([Unavailable("down", code="processor-unreachable", retry_after_seconds=0.1)] * 9)
    with pytest.raises(InDoubt) as doubt:
        await till.charge("t1")
    assert (doubt.value.code, doubt.value.retry_after_seconds) == ("processor-unreachable", 0.1)
    assert processor.asked[CHARGE] == ATTEMPTS_MAX
    processor.failing.clear()
    assert await till.charge("t1") == DONE


async def test_what_nobody_waits_for_any_more_is_not_begun(till: Till, processor: ScriptedProcessor) -> None:
    with pytest.raises(Unavailable, match="deadline"):
        await till.cashier.charge(till.payment("t1"), Deadline(till.clock.unix_ms()))
    with pytest.raises(NotFound):
        await till.status("t1")
    assert not processor.asked


async def test_a_round_ends_with_its_deadline(till: Till, processor: ScriptedProcessor) -> None:
    processor.failing.extend([Unavailable("busy", retry_after_seconds=2.0)] * 9)
    with pytest.raises(InDoubt):
        await till.cashier.charge(till.payment("t1"), Deadline(till.clock.unix_ms() + 3000))
    assert processor.asked[CHARGE] == 2


async def test_a_refund_waits_for_the_charge_it_takes_back(till: Till, processor: ScriptedProcessor) -> None:
    processor.open.clear()
    async with asyncio.TaskGroup() as group:
        charge = group.create_task(till.charge("t1"))
        await processor.until_asked(CHARGE)
        refund = group.create_task(till.refund("t1"))
        processor.open.set()
    assert (charge.result(), refund.result()) == (DONE, DONE)
    assert (processor.asked[CHARGE], processor.asked[REFUND]) == (1, 1)
    assert await books(till, processor) == (0, 0)


async def test_a_refund_finds_out_first_whether_anything_was_taken(till: Till, processor: ScriptedProcessor) -> None:
    processor.lost.extend([InDoubt("lost")] * ATTEMPTS_MAX)
    with pytest.raises(InDoubt):
        await till.charge("t1")
    assert await till.refund("t1") == DONE
    assert await books(till, processor) == (0, 0)
    assert await till.status("t1") == "refunded"


async def test_a_refund_of_an_unknown_charge_that_was_declined_gives_back_nothing(
    till: Till, processor: ScriptedProcessor
) -> None:
    processor.lost.extend([InDoubt("lost")] * ATTEMPTS_MAX)
    with pytest.raises(InDoubt):
        await till.charge("t1", "tok_declined")
    assert await till.refund("t1") == Done()
    assert processor.asked[REFUND] == 0


async def test_a_refund_whose_answer_is_lost_gives_back_once(till: Till, processor: ScriptedProcessor) -> None:
    await till.charge("t1")
    processor.lost.extend([InDoubt("lost")] * (ATTEMPTS_MAX + 1))
    with pytest.raises(InDoubt):
        await till.refund("t1")
    assert await till.status("t1") == "refunding"
    assert await till.refund("t1") == await till.refund("t1") == DONE
    assert await books(till, processor) == (0, 0)


async def test_a_refund_that_comes_first_wins(till: Till, processor: ScriptedProcessor) -> None:
    assert await till.refund("t1") == Done()
    with pytest.raises(Refused) as refused:
        await till.charge("t1")
    assert refused.value.code == "undone-before-done"
    assert not processor.asked


async def test_what_cannot_be_charged_is_not_begun(till: Till, processor: ScriptedProcessor) -> None:
    payment = till.payment("t1")
    for wrong in (
        replace(payment, amount=Money(0, "EUR")),
        replace(payment, account_id=""),
        replace(payment, card_token="x" * 65),
    ):
        with pytest.raises(Invalid):
            await till.cashier.charge(wrong)
    assert not processor.asked


async def test_cards_that_fail_by_themselves_do_not_stop_everybody(till: Till, processor: ScriptedProcessor) -> None:
    rounds = (FAILURES_MAX - 1) // ATTEMPTS_MAX
    processor.failing.extend([Unavailable("this card")] * rounds * ATTEMPTS_MAX)
    for number in range(rounds):
        with pytest.raises(InDoubt):
            await till.charge(f"failing-{number}")
    assert await till.charge("t1") == DONE


async def test_a_processor_that_fails_everybody_is_left_in_peace_for_a_moment(
    make_database: MakeDatabase, processor: ScriptedProcessor
) -> None:
    # Time stands still, so that the moment does not pass.
    async with open_till(await make_database("payment", MIGRATIONS), processor, StandingClock()) as till:
        processor.failing.extend([Unavailable("down")] * FAILURES_MAX)
        for number in range(FAILURES_MAX // ATTEMPTS_MAX):
            with pytest.raises(InDoubt):
                await till.charge(f"t{number}")
        with pytest.raises(InDoubt) as refused:
            await till.charge("next")
        assert refused.value.code == "breaker-open"
        assert sum(processor.asked.values()) == FAILURES_MAX


class StandingClock(ManualClock):
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


async def begin(till: Till, transaction_id: str, card: str = "tok_ok") -> None:
    """As a process does that dies before it hears from the processor."""
    entry = Entry(Key(transaction_id, "charge", Operation.DO), b"asked")
    await till.handlers.begin([BeginCharge(entry, till.payment(transaction_id, card))])


async def test_what_a_dead_process_began_is_carried_on_though_nobody_asks(
    till: Till, processor: ScriptedProcessor
) -> None:
    await begin(till, "charging")
    await begin(till, "declined", "tok_declined")
    await begin(till, "lost")
    await processor.charge(till.payment("lost"))
    await till.charge("refunding")
    await till.handlers.begin([BeginRefund(Entry(Key("refunding", "charge", Operation.UNDO), b""))])
    till.clock.advance(PATIENCE_SECONDS + 1)
    await till.cashier.resume_once(till.queries, PATIENCE_SECONDS)
    statuses = [await till.status(one) for one in ("charging", "declined", "lost", "refunding")]
    assert statuses == ["charged", "declined", "charged", "refunded"]
    assert await books(till, processor) == (9800, 2)
    assert set(processor.asked.values()) <= {1, 2}


async def test_what_is_under_way_is_left_to_those_who_asked(till: Till, processor: ScriptedProcessor) -> None:
    await begin(till, "t1")
    await till.cashier.resume_once(till.queries, PATIENCE_SECONDS)
    assert not processor.asked


async def test_one_payment_that_cannot_go_on_does_not_keep_the_others(till: Till, processor: ScriptedProcessor) -> None:
    for number in range(RESUME_ROWS_MAX + 3):
        await begin(till, f"t{number}")
    till.clock.advance(PATIENCE_SECONDS + 1)
    broken = payment_id_of("t0", "charge")
    till.cashier._processor = Refusing(processor, broken)
    await till.cashier.resume_once(till.queries, PATIENCE_SECONDS)
    statuses = [await till.status(f"t{number}") for number in range(RESUME_ROWS_MAX + 3)]
    assert statuses == ["charging"] + ["charged"] * (RESUME_ROWS_MAX + 2)


class Refusing:
    """A processor with which one payment runs into a mistake of ours."""

    def __init__(self, processor: ScriptedProcessor, payment_id: str) -> None:
        self._processor = processor
        self._payment_id = payment_id

    async def charge(self, payment: Payment) -> Verdict:
        if payment.payment_id == self._payment_id:
            raise ZeroDivisionError
        return await self._processor.charge(payment)

    async def authorise(self, payment: Payment) -> Verdict:
        return await self._processor.authorise(payment)

    async def capture(self, payment: Payment) -> None:
        await self._processor.capture(payment)

    async def void(self, payment: Payment) -> None:
        await self._processor.void(payment)

    async def refund(self, payment: Payment) -> None:
        await self._processor.refund(payment)


async def test_money_wanted_back_while_it_was_being_taken_is_given_back_though_nobody_asks_again(
    till: Till, processor: ScriptedProcessor
) -> None:
    processor.lost.extend([InDoubt("lost")] * ATTEMPTS_MAX * 2)
    with pytest.raises(InDoubt):
        await till.charge("t1")
    with pytest.raises(InDoubt):
        await till.refund("t1")
    till.clock.advance(PATIENCE_SECONDS + 1)
    await till.cashier.resume_once(till.queries, PATIENCE_SECONDS)
    assert await till.status("t1") == "refunded"
    assert await books(till, processor) == (0, 0)


async def test_the_process_after_a_crash_asks_under_the_same_key(
    till: Till, make_database: MakeDatabase, processor: ScriptedProcessor
) -> None:
    processor.open.clear()
    async with asyncio.TaskGroup() as group:
        doomed = group.create_task(till.charge("t1"))
        await processor.until_asked(CHARGE)
        async with open_till(till.url, processor, QuickClock()) as next_one:
            again = group.create_task(next_one.charge("t1"))
            await processor.until_asked(CHARGE, times=2)
            processor.open.set()
            assert await again == DONE
        assert await doomed == DONE
    assert await books(till, processor) == (4900, 1)


async def test_a_charge_and_its_refund_in_any_order_end_without_money_moved(
    till: Till, processor: ScriptedProcessor
) -> None:
    async with asyncio.TaskGroup() as group:
        work = [group.create_task(till.charge(f"t{number}")) for number in range(40)]
        work += [group.create_task(till.refund(f"t{number}")) for number in range(40)]
        told = {await outcome(one) for one in work}
    assert told <= {"done", "nothing", "undone-before-done"}
    assert await books(till, processor) == (0, 0)


async def test_a_verdict_settled_by_another_process_is_the_answer(till: Till, processor: ScriptedProcessor) -> None:
    processor.open.clear()
    async with asyncio.TaskGroup() as group:
        wanted = group.create_task(till.charge("t1"))
        await processor.until_asked(CHARGE)
        key = Key("t1", "charge", Operation.DO)
        await till.handlers.settle([SettleCharge(key, Charged(f"ch_{DONE.payment_id}"))])
        processor.open.set()
    assert wanted.result() == DONE
    assert await books(till, processor) == (4900, 1)
