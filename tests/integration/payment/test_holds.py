"""Charges that are held: authorised, captured when they are confirmed, given up when not; who holds too long asks."""

import asyncio
from collections.abc import Awaitable

import pytest

from libs.coordination.outcomes import Outcome
from libs.kernel.errors import InDoubt, Refused
from libs.tcc.barrier import Manner
from services.payment.cashier import ATTEMPTS_MAX
from services.payment.domain import payment_id_of
from services.payment.handlers import Done, capturing, taking_back
from tests.integration.payment.till import PRICE, Coordinator, ScriptedProcessor, Till, rows

HOLD = Manner.HOLD
DONE = Done(payment_id_of("t1", "charge"), PRICE)
AUTHORISE, CAPTURE, VOID = (f"{what} {DONE.payment_id}" for what in ("authorise", "capture", "void"))
NEVER = [InDoubt("lost")] * ATTEMPTS_MAX


async def books(till: Till, processor: ScriptedProcessor) -> tuple[int, int]:
    """What ada was charged: by the ledger, which must sum to zero, and by the processor, in charges."""
    ledger = await till.ledger()
    assert sum(ledger.values()) == 0
    return ledger.get("customer:ada", 0), sum(processor.moved.values())


async def statement(till: Till) -> list[str]:
    return [one.memo for one in (await till.queries.postings("ada", "", 10))[0]]


async def test_what_is_authorised_is_on_no_statement(till: Till, processor: ScriptedProcessor) -> None:
    assert await till.authorise("t1") == await till.authorise("t1") == DONE
    assert (await till.status("t1"), processor.asked[AUTHORISE]) == ("authorised", 1)
    assert (await statement(till), await books(till, processor)) == ([], (0, 0))


async def test_an_authorisation_lasts_as_long_as_was_asked_by_the_clock_of_the_database(till: Till) -> None:
    await till.authorise("t1", lease_ms=90_000)
    await till.charge("t2")
    leases: list[tuple[object, ...]] = [
        *await rows(
            till.url,
            "SELECT extract(epoch FROM lease_until - (SELECT created_at FROM barrier WHERE transaction_id = 't1'))::int"
            " FROM payments ORDER BY transaction_id",
        )
    ]
    assert [row[0] for row in leases] == [90, None]


async def test_a_confirmed_authorisation_is_captured_once(till: Till, processor: ScriptedProcessor) -> None:
    await till.authorise("t1")
    assert await till.desk.confirm("t1") == await till.desk.confirm("t1", manner=HOLD) == DONE
    assert (await till.status("t1"), processor.asked[CAPTURE]) == ("charged", 1)
    assert (await statement(till), await books(till, processor)) == (["charge"], (4900, 1))


async def test_a_declined_card_is_refused_as_it_is_for_a_charge(till: Till, processor: ScriptedProcessor) -> None:
    for _ in range(2):
        with pytest.raises(Refused, match="the issuer declined the card") as declined:
            await till.authorise("t1", card="tok_declined")
        assert declined.value.code == "card-declined"
    with pytest.raises(Refused) as nothing:
        await till.desk.confirm("t1")
    assert nothing.value.code == "nothing-held"
    assert await till.desk.refund("t1", manner=HOLD) == Done()
    assert await till.status("t1") == "declined"


async def test_an_authorisation_that_is_given_up_never_was_a_charge(till: Till, processor: ScriptedProcessor) -> None:
    await till.authorise("t1")
    assert await till.desk.refund("t1", manner=HOLD) == await till.desk.refund("t1") == DONE
    assert (await till.status("t1"), processor.asked[VOID]) == ("voided", 1)
    assert (await statement(till), await books(till, processor)) == ([], (0, 0))
    assert await till.desk.confirm("t1") == Done()
    assert await till.authorise("t1") == DONE  # a repeat is answered as it was, and holds nothing
    assert processor.asked[AUTHORISE] == 1


async def test_an_undo_that_comes_first_wins(till: Till, processor: ScriptedProcessor) -> None:
    assert await till.desk.refund("t1", manner=HOLD) == Done()
    with pytest.raises(Refused) as refused:
        await till.authorise("t1")
    assert refused.value.code == "undone-before-done"
    assert not processor.asked


async def test_a_captured_charge_is_refunded_with_its_order(till: Till, processor: ScriptedProcessor) -> None:
    await till.authorise("t1")
    await till.desk.confirm("t1")
    assert await till.desk.refund("t1") == DONE
    assert await till.status("t1") == "refunded"
    assert (await statement(till), await books(till, processor)) == (["refund", "charge"], (0, 0))


async def test_what_was_never_authorised_cannot_be_confirmed(till: Till) -> None:
    with pytest.raises(Refused) as nothing:
        await till.desk.confirm("t1")
    assert nothing.value.code == "nothing-held"


async def test_what_was_charged_at_once_needs_no_confirmation(till: Till, processor: ScriptedProcessor) -> None:
    await till.charge("t1")
    assert await till.desk.confirm("t1") == DONE
    assert processor.asked[CAPTURE] == 0


# Answers that are lost.


@pytest.mark.parametrize("lost", [1, ATTEMPTS_MAX + 1])
async def test_a_lost_answer_is_asked_for_again_and_nothing_happens_twice(
    till: Till, processor: ScriptedProcessor, lost: int
) -> None:
    for work, status in (
        (till.authorise, "authorised"),
        (till.desk.confirm, "charged"),
    ):
        processor.lost.extend([InDoubt("lost")] * lost)
        if lost > ATTEMPTS_MAX:
            with pytest.raises(InDoubt):
                await work("t1")
        assert await work("t1") == DONE
        assert await till.status("t1") == status
    assert await books(till, processor) == (4900, 1)


async def test_what_may_not_have_arrived_is_given_up_without_asking_again(
    till: Till, processor: ScriptedProcessor
) -> None:
    processor.failing.extend(NEVER)
    with pytest.raises(InDoubt):
        await till.authorise("t1")
    assert await till.desk.refund("t1", manner=HOLD) == DONE
    assert (await till.status("t1"), processor.asked[AUTHORISE]) == ("voided", ATTEMPTS_MAX)
    with pytest.raises(Refused) as refused:
        await till.authorise("t1")
    assert refused.value.code == "undone-before-done"


async def test_an_authorisation_that_arrives_after_it_was_given_up_is_none(
    till: Till, processor: ScriptedProcessor
) -> None:
    processor.open.clear()
    async with asyncio.TaskGroup() as group:
        late = group.create_task(_code(till.authorise("t1")))
        await processor.until_asked(AUTHORISE)
        undone = group.create_task(till.desk.refund("t1", manner=HOLD))
        await processor.until_asked(VOID)
        processor.open.set()
    assert (late.result(), undone.result()) == ("undone-before-done", DONE)
    assert (await till.status("t1"), await books(till, processor)) == ("voided", (0, 0))


async def test_an_undo_that_meets_the_capture_takes_the_money_back(till: Till, processor: ScriptedProcessor) -> None:
    await till.authorise("t1")
    processor.open.clear()
    async with asyncio.TaskGroup() as group:
        confirmed = group.create_task(till.desk.confirm("t1"))
        await processor.until_asked(CAPTURE)
        undone = group.create_task(till.desk.refund("t1"))
        processor.open.set()
    assert (confirmed.result(), undone.result()) == (DONE, DONE)
    assert processor.asked[CAPTURE] == 1
    assert (await till.status("t1"), await books(till, processor)) == ("refunded", (0, 0))


async def test_what_the_processor_gave_up_by_itself_is_refused(till: Till, processor: ScriptedProcessor) -> None:
    processor.voids.add(DONE.payment_id)
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await till.authorise("t1")
        assert refused.value.code == "authorisation-voided"
    assert await till.status("t1") == "voided"
    assert await till.desk.refund("t1") == Done()


async def _code(work: Awaitable[Done]) -> str:
    try:
        await work
    except Refused as error:
        return error.code
    return "done"


# What a dead process left behind.


async def test_an_authorisation_that_was_begun_is_carried_on_though_nobody_asks(
    till: Till, processor: ScriptedProcessor
) -> None:
    processor.failing.extend(NEVER)
    with pytest.raises(InDoubt):
        await till.authorise("t1")
    assert await till.status("t1") == "authorising"
    await till.resume()
    assert await till.status("t1") == "authorised"
    assert await till.authorise("t1") == DONE
    assert await books(till, processor) == (0, 0)


async def test_a_capture_that_was_begun_is_carried_on_though_nobody_asks(
    till: Till, processor: ScriptedProcessor
) -> None:
    await till.authorise("t1")
    await till.handlers.begin([capturing("t1", "charge", HOLD)])
    assert await till.status("t1") == "capturing"
    await till.resume()
    assert await till.status("t1") == "charged"
    assert await till.desk.confirm("t1") == DONE
    assert (processor.asked[CAPTURE], await books(till, processor)) == (1, (4900, 1))


async def test_a_void_that_was_begun_is_carried_on_though_nobody_asks(till: Till, processor: ScriptedProcessor) -> None:
    await till.authorise("t1")
    await till.handlers.begin([taking_back("t1", "charge", HOLD)])
    assert await till.status("t1") == "voiding"
    await till.resume()
    assert await till.status("t1") == "voided"
    assert await till.desk.refund("t1") == DONE
    assert processor.asked[VOID] == 1


async def test_money_wanted_back_during_the_capture_is_given_back_though_nobody_asks(
    till: Till, processor: ScriptedProcessor
) -> None:
    await till.authorise("t1")
    await till.handlers.begin([capturing("t1", "charge", HOLD)])
    await till.handlers.begin([taking_back("t1", "charge")])
    await till.resume()
    assert (await till.status("t1"), await books(till, processor)) == ("refunded", (0, 0))
    assert await till.desk.refund("t1") == DONE


# Who held too long asks.


async def test_nobody_is_asked_about_an_authorisation_whose_lease_lasts(till: Till) -> None:
    coordinator = Coordinator(Outcome.CANCEL)
    await till.authorise("t1")
    await till.charge("t2")
    assert (await till.inquire(coordinator), coordinator.asked) == (0, [])


@pytest.mark.parametrize(
    ("outcome", "status", "money"), [(Outcome.CONFIRM, "charged", (4900, 1)), (Outcome.CANCEL, "voided", (0, 0))]
)
async def test_an_overdue_authorisation_asks_and_is_settled_once(
    till: Till, processor: ScriptedProcessor, outcome: Outcome, status: str, money: tuple[int, int]
) -> None:
    coordinator = Coordinator(outcome)
    await till.authorise("t1", lease_ms=1)
    await till.until_overdue()
    assert await till.inquire(coordinator) == 1
    assert (await till.status("t1"), await books(till, processor)) == (status, money)
    assert (await till.inquire(coordinator), coordinator.asked) == (0, ["t1"])
    # The coordinator's own command comes after all.
    late = till.desk.confirm if outcome is Outcome.CONFIRM else till.desk.refund
    assert await late("t1", manner=HOLD) == DONE
    assert await books(till, processor) == money


async def test_an_overdue_authorisation_stays_until_somebody_decides(till: Till) -> None:
    await till.authorise("t1", lease_ms=1)
    await till.until_overdue()
    assert await till.inquire(Coordinator(Outcome.UNDECIDED)) == 0
    assert await till.status("t1") == "authorised"
