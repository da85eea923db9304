"""Charges that are prepared: authorised for all to see, captured when their transaction is committed."""

from dataclasses import replace

import pytest

from libs.coordination.outcomes import Outcome
from libs.kernel.errors import InDoubt, Refused
from libs.tcc.barrier import Manner
from services.payment.domain import Payment, Status, payment_id_of
from services.payment.handlers import Done, charging
from tests.integration.payment.test_holds import NEVER, books, statement
from tests.integration.payment.till import PRICE, Coordinator, ScriptedProcessor, Till

PREPARE = Manner.PREPARE
DONE = Done(payment_id_of("t1", "charge"), PRICE)
CAPTURE = f"capture {DONE.payment_id}"


async def prepare(till: Till, transaction_id: str = "t1", card: str = "tok_ok", lease_ms: int = 0) -> Done:
    return await till.authorise(transaction_id, PREPARE, card, lease_ms)


async def prepared(till: Till) -> list[str]:
    return list(await till.prepared.overdue(0.0, 10))


async def test_what_is_prepared_is_authorised_and_captured_once_it_is_committed(
    till: Till, processor: ScriptedProcessor
) -> None:
    assert await prepare(till) == await prepare(till) == DONE
    assert (await till.status("t1"), await prepared(till), await statement(till)) == ("authorised", ["t1"], [])
    assert await till.desk.confirm("t1", manner=PREPARE) == await till.desk.confirm("t1", manner=PREPARE) == DONE
    assert (await till.status("t1"), processor.asked[CAPTURE]) == ("charged", 1)
    assert (await statement(till), await books(till, processor)) == (["charge"], (4900, 1))
    assert await prepare(till) == DONE
    assert await prepared(till) == []


async def test_what_is_rolled_back_leaves_a_voided_authorisation_and_no_charge(
    till: Till, processor: ScriptedProcessor
) -> None:
    await prepare(till)
    assert await till.desk.refund("t1", manner=PREPARE) == await till.desk.refund("t1", manner=PREPARE) == DONE
    assert (await till.status("t1"), await prepared(till)) == ("voided", [])
    assert (await statement(till), await books(till, processor)) == ([], (0, 0))


async def test_a_prepare_that_comes_after_its_undo_prepares_nothing(till: Till, processor: ScriptedProcessor) -> None:
    assert await till.desk.refund("t1", manner=PREPARE) == Done()
    with pytest.raises(Refused) as refused:
        await prepare(till)
    assert refused.value.code == "undone-before-done"
    assert (await prepared(till), processor.asked) == ([], {})


async def test_a_repeat_that_comes_after_the_undo_prepares_nothing(till: Till) -> None:
    await prepare(till)
    await till.desk.refund("t1", manner=PREPARE)
    with pytest.raises(Refused) as refused:
        await prepare(till)
    assert refused.value.code == "undone-before-done"
    assert await prepared(till) == []


async def test_a_declined_card_is_final_at_once_and_prepares_nothing(till: Till) -> None:
    for _ in range(2):
        with pytest.raises(Refused) as declined:
            await prepare(till, card="tok_declined")
        assert declined.value.code == "card-declined"
    assert await prepared(till) == []
    assert await till.desk.refund("t1", manner=PREPARE) == Done()


async def test_a_committed_charge_can_still_be_refunded_with_its_order(
    till: Till, processor: ScriptedProcessor
) -> None:
    await prepare(till)
    await till.desk.confirm("t1", manner=PREPARE)
    assert await till.desk.refund("t1") == DONE
    assert (await till.status("t1"), await books(till, processor)) == ("refunded", (0, 0))


async def test_a_cancellation_between_commit_and_capture_gives_the_money_back(
    till: Till, processor: ScriptedProcessor
) -> None:
    await prepare(till)
    await till.prepared.commit("t1")
    assert await till.desk.refund("t1") == DONE
    assert await till.desk.confirm("t1", manner=PREPARE) == Done()
    assert (await till.status("t1"), await books(till, processor)) == ("refunded", (0, 0))


# What a dead process left behind, between any two of the steps.


async def test_it_died_while_it_authorised(till: Till) -> None:
    await till.handlers.begin([charging(_begun(till), PREPARE, 60_000)])
    await till.resume()
    assert (await till.status("t1"), await prepared(till)) == ("authorised", [])
    assert await prepare(till) == DONE
    assert await prepared(till) == ["t1"]


async def test_it_died_between_the_authorisation_and_the_prepare_and_the_order_was_given_up(till: Till) -> None:
    coordinator = Coordinator(Outcome.CANCEL)
    await till.handlers.begin([charging(_begun(till), PREPARE, 1)])
    await till.resume()
    await till.until_overdue()
    assert (await till.inquire(coordinator), coordinator.asked) == (1, ["t1"])
    assert await till.status("t1") == "voided"


async def test_it_died_between_the_commit_and_the_capture(till: Till, processor: ScriptedProcessor) -> None:
    await prepare(till)
    await till.prepared.commit("t1")
    assert await till.status("t1") == "capturing"
    await till.resume()
    assert await till.status("t1") == "charged"
    assert await till.desk.confirm("t1", manner=PREPARE) == DONE
    assert (processor.asked[CAPTURE], await books(till, processor)) == (1, (4900, 1))


async def test_it_died_between_the_rollback_and_the_void(till: Till, processor: ScriptedProcessor) -> None:
    await prepare(till, lease_ms=1)
    await till.prepared.roll_back("t1")
    await till.until_overdue()
    assert await till.inquire(Coordinator(Outcome.CANCEL)) == 1
    assert (await till.status("t1"), await books(till, processor)) == ("voided", (0, 0))


async def test_a_capture_whose_answers_are_lost_stays_in_doubt_and_takes_the_money_once(
    till: Till, processor: ScriptedProcessor
) -> None:
    await prepare(till)
    processor.lost.extend(NEVER)
    with pytest.raises(InDoubt):
        await till.desk.confirm("t1", manner=PREPARE)
    assert await till.status("t1") == "capturing"
    assert await till.desk.confirm("t1", manner=PREPARE) == DONE
    assert await books(till, processor) == (4900, 1)


@pytest.mark.parametrize(
    ("outcome", "status", "money"), [(Outcome.CONFIRM, "charged", (4900, 1)), (Outcome.CANCEL, "voided", (0, 0))]
)
async def test_what_is_prepared_for_too_long_asks_and_is_settled_once(
    till: Till, processor: ScriptedProcessor, outcome: Outcome, status: str, money: tuple[int, int]
) -> None:
    coordinator = Coordinator(outcome)
    await prepare(till, lease_ms=1)
    await till.until_overdue()  # as an authorisation, too
    assert await till.inquire(coordinator) == 1
    assert (await till.status("t1"), await books(till, processor)) == (status, money)
    # The coordinator's own command comes after all.
    late = till.desk.confirm if outcome is Outcome.CONFIRM else till.desk.refund
    assert await late("t1", manner=PREPARE) == DONE
    assert (await till.inquire(coordinator), coordinator.asked) == (0, ["t1"])


def _begun(till: Till) -> Payment:
    return replace(till.payment("t1"), status=Status.AUTHORISING)
