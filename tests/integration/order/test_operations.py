"""Operators on a real database: what they see, each verb, each refusal, what is kept of it, and races with others."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from libs.kernel.errors import Conflict, Invalid, Mismatch, NotFound
from libs.saga.entries import AnyEntry, Parked, PivotDecided, Skipped, Started, StepDone, UndoDecided
from services.order.domain import CHOREOGRAPHED, NAIVE, ORCHESTRATED, TCC, TWO_PHASE
from services.order.operations import Verb
from tests.integration.order.bureau import Bureau, booked, deducted, returned
from tests.integration.order.floor import (
    AT_A_CONFIRM,
    AT_THE_ORDER,
    AT_THE_PIVOT,
    AT_THE_REFUND,
    BACK,
    Floor,
)

PROOF = "bank statement 7"
CALLS_BEFORE_PIVOT = 3


@pytest_asyncio.fixture
async def floor(bureau: Bureau) -> AsyncIterator[Floor]:
    yield Floor(bureau)


async def cancelling(floor: Floor, *lines: AnyEntry, order_id: str = "o1") -> str:
    """A confirmed order whose cancellation has come to rest; the cancellation's id."""
    await floor.park(order_id, *AT_THE_PIVOT)
    await floor.bureau.confirm(order_id)
    await floor.bureau.cancel(order_id)
    await floor.log_lines(f"{order_id}/cancel/3", Started(), StepDone("request-cancel"), *lines)
    return f"{order_id}/cancel/3"


async def parked_choreography(floor: Floor, order_id: str = "o1") -> None:
    await floor.bureau.place(order_id)
    await floor.bureau.hear(deducted(order_id))
    for _ in range(2):
        await floor.bureau.let_time_pass(order_id)
        await floor.bureau.deadlines.step()


async def abandoned_naive(floor: Floor, order_id: str = "o1") -> None:
    """One whose calls were over long ago: placed at noon, and shown by the view."""
    await floor.bureau.place(order_id, NAIVE)
    await floor.bureau.rows(
        "INSERT INTO order_view VALUES ($1, 'ada', 'pending', '', 'naive', '[]', 0, 'EUR', '{}', $2, $2, 1)",
        order_id,
        (await floor.seen(order_id)).started_at,
    )


# What they see.


async def test_transactions_of_every_style_are_listed_oldest_first_with_what_they_wait_for(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    await floor.bureau.place("o2", TCC)
    await parked_choreography(floor, "o3")
    await abandoned_naive(floor, "o4")
    await floor.bureau.place("o5", TWO_PHASE)
    await floor.log_lines("o5", Started(), StepDone("place-order"), UndoDecided("prepare-stock", "no", "no"))
    await floor.bureau.place("o6", CHOREOGRAPHED)
    page = await floor.reader.page("", 10, "")
    assert [(one.transaction_id, one.style, one.status) for one in page.transactions] == [
        ("o1", ORCHESTRATED, "parked"),
        ("o2", TCC, "running"),
        ("o3", CHOREOGRAPHED, "parked"),
        ("o4", NAIVE, "parked"),
        ("o5", TWO_PHASE, "undoing"),
        ("o6", CHOREOGRAPHED, "running"),
    ]
    first, second, third, fourth, *_, last = page.transactions
    assert first.reason == "undo of charge failed 60 times"
    assert first.skippable == ("charge", "deduct-stock")
    assert first.waits_for.startswith("an operator since 2026-01-31T12:00:00")
    assert first.age_seconds > 0
    assert second.waits_for.startswith("place-order (try 1)")
    assert third.reason == "nothing was heard in time after CheckoutWithdrawn"
    assert fourth.reason == "its calls ended without a decision: nobody goes on with it"
    assert last.waits_for.startswith("its first reaction since")


async def test_a_listing_is_narrowed_and_goes_on_where_the_last_page_ended(floor: Floor) -> None:
    for number in range(5):
        await floor.park(f"o{number}", *AT_THE_REFUND)
    await parked_choreography(floor, "o2x")
    await floor.bureau.place("o9", TCC)
    shown: list[str] = []
    after, pages = "", 0
    while after or not pages:
        page = await floor.reader.page("parked", 2, after)
        assert len(page.transactions) <= 2
        shown += [one.transaction_id for one in page.transactions]
        after, pages = page.next_after, pages + 1
    assert (shown, pages) == (["o0", "o1", "o2", "o2x", "o3", "o4"], 3)
    assert [one.transaction_id for one in (await floor.reader.page("running", 9, "")).transactions] == ["o9"]
    with pytest.raises(Invalid, match="state is one of"):
        await floor.reader.page("lost", 2, "")
    with pytest.raises(Invalid, match="id"):
        await floor.reader.page("", 2, "o\0")


async def test_one_is_shown_ended_or_not(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    cancellation = await cancelling(floor, PivotDecided("cancel-booking"), Parked("stuck"), order_id="o2")
    seen = await floor.seen(cancellation)
    assert (seen.order_id, seen.style, seen.phase, seen.skippable) == ("o2", "cancellation", "parked-committing", ())
    await floor.bureau.place("o3")
    await floor.bureau.hear(booked("o3"))
    assert ((await floor.seen("o3")).status, (await floor.seen("o3")).reason) == ("ended", "confirmed")
    with pytest.raises(NotFound):
        await floor.seen("o4")


# What they do.


async def test_a_parked_checkout_is_retried_and_comes_to_its_end(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    async with floor.running():
        done = await floor.intervene(Verb.RETRY, "o1")
        assert (done.action.verb, done.action.by, done.action.why, done.action.outcome) == (
            "retry",
            "olga",
            "the bank was down",
            "resumed",
        )
        await floor.until_ended("o1")
    assert floor.peer.asked == ["refund o1", "restock o1"]
    assert await floor.bureau.order("o1") == "rejected no-capacity"
    assert (await floor.seen("o1")).reason == "undone"


async def test_a_step_that_was_proven_is_not_sent_any_more(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    async with floor.running():
        done = await floor.intervene(Verb.SKIP, "o1", proof=PROOF)
        assert (done.action.step, done.action.proof) == ("charge", PROOF)
        await floor.until_ended("o1")
    assert floor.peer.asked == ["restock o1"]
    assert await floor.bureau.order("o1") == "rejected no-capacity"


async def test_a_confirm_that_was_proven_ends_the_order_as_it_was_decided(floor: Floor) -> None:
    await floor.park("o1", *AT_A_CONFIRM, style=TCC)
    async with floor.running():
        assert await floor.told(Verb.COMPENSATE, "o1") == "order-confirmed"
        assert await floor.told(Verb.END, "o1") == "still-owed"
        assert await floor.told(Verb.SKIP, "o1", step="confirm-payment", proof=PROOF) == "skipped"
        await floor.until_ended("o1")
    assert floor.peer.asked == []
    assert await floor.bureau.order("o1") == "confirmed"


async def test_a_running_checkout_is_compensated_and_takes_everything_back(floor: Floor) -> None:
    floor.peer.may_answer.clear()
    async with floor.running():
        await floor.bureau.place("o1", ORCHESTRATED)
        assert await floor.told(Verb.COMPENSATE, "o1") == "withdrawn"
        floor.peer.may_answer.set()
        await floor.until_ended("o1")
    assert await floor.bureau.order("o1") == "rejected compensated-by-operator"
    did, undid = [[one for one in floor.peer.asked if one.split()[0] in names] for names in (BACK, BACK.values())]
    assert len(did) == len(undid)


async def test_a_checkout_that_was_not_told_turns_back_at_the_pivot(floor: Floor) -> None:
    """As when another process runs it: the withdrawal is durable, and that is enough."""
    floor.peer.may_answer.clear()
    async with floor.running():
        await floor.bureau.place("o1", ORCHESTRATED)
        floor.bureau.units.on_commit = lambda done: None
        assert await floor.told(Verb.COMPENSATE, "o1") == "withdrawn"
        floor.peer.may_answer.set()
        await floor.until_ended("o1")
    assert "CancelRequested" not in await floor.words("o1")
    assert await floor.bureau.order("o1") == "rejected compensated-by-operator"
    assert floor.peer.asked[3:] == ["cancel-booking o1", "refund o1", "restock o1"]


async def test_a_pivot_nobody_answered_is_compensated_by_asking_it_again(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_PIVOT)
    async with floor.running():
        assert await floor.told(Verb.COMPENSATE, "o1") == "withdrawn"
        await floor.until_ended("o1")
    assert await floor.bureau.order("o1") == "rejected compensated-by-operator"
    assert floor.peer.asked == ["cancel-booking o1", "refund o1", "restock o1"]


async def test_a_pivot_that_was_passed_is_not_compensated(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_PIVOT)
    await floor.bureau.confirm("o1")
    assert await floor.told(Verb.COMPENSATE, "o1") == "order-confirmed"
    assert await floor.words("o1") == ["Started", *[type(line).__name__ for line in AT_THE_PIVOT]]
    assert await floor.told(Verb.END, "o1") == "order-confirmed"
    assert (await floor.seen("o1")).reason == "forced"


async def test_an_end_is_refused_with_what_is_owed(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    with pytest.raises(Conflict, match="undo of charge, undo of deduct-stock") as refused:
        await floor.intervene(Verb.END, "o1")
    assert refused.value.details == {"owed": "undo of charge, undo of deduct-stock"}
    assert (await floor.seen("o1")).status == "parked"
    assert await floor.outcomes("o1") == ["end refused: still-owed"]


async def test_a_checkout_that_owes_nothing_is_ended_and_its_order_too(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_ORDER)
    assert await floor.told(Verb.END, "o1") == "order-rejected"
    assert await floor.bureau.order("o1") == "rejected card-declined"
    assert ((await floor.seen("o1")).status, (await floor.seen("o1")).reason) == ("ended", "forced")
    assert (await floor.reader.page("", 10, "")).transactions == []


async def test_a_cancellation_that_took_everything_back_is_ended(floor: Floor) -> None:
    lines: list[AnyEntry] = [
        PivotDecided("cancel-booking"),
        *(StepDone(step) for step in ("cancel-booking", "refund", "restock")),
    ]
    cancellation = await cancelling(floor, *lines, Parked("mark-cancelled failed 60 times"))
    assert await floor.told(Verb.SKIP, cancellation, proof=PROOF) == "own-step"
    assert await floor.told(Verb.COMPENSATE, cancellation) == "not-a-checkout"
    assert await floor.told(Verb.END, cancellation) == "order-cancelled"
    assert await floor.bureau.order("o1") == "cancelled rain"


async def test_a_cancellation_that_was_refused_leaves_its_order_as_it_is(floor: Floor) -> None:
    lines: list[AnyEntry] = [
        PivotDecided("cancel-booking"),
        UndoDecided("cancel-booking", "already-dispatched", "gone"),
    ]
    cancellation = await cancelling(floor, *lines, Parked("undo of request-cancel failed 60 times"))
    assert await floor.told(Verb.END, cancellation) == "order-confirmed"
    assert (await floor.bureau.events("o1"))[-1] == "CancelRefused"


async def test_a_choreography_is_compensated_by_telling_everybody(floor: Floor) -> None:
    await floor.bureau.place("o1")
    await floor.bureau.hear(deducted("o1"))
    assert await floor.told(Verb.COMPENSATE, "o1") == "withdrawn"
    assert await floor.bureau.withdrawals() == ["o1 compensated-by-operator"]
    assert await floor.bureau.choreography("o1") == "withdrawn CheckoutWithdrawn"
    assert await floor.told(Verb.COMPENSATE, "o1", key="again") == "already-going-back"
    await floor.bureau.hear(booked("o1"))
    await floor.bureau.hear(returned("o1", "compensated-by-operator"))
    assert await floor.bureau.order("o1") == "rejected compensated-by-operator"
    assert (await floor.seen("o1")).status == "ended"


async def test_a_parked_choreography_is_told_again_and_has_its_time_again(floor: Floor) -> None:
    await parked_choreography(floor)
    assert await floor.told(Verb.RETRY, "o1") == "resumed"
    assert await floor.bureau.withdrawals() == ["o1 checkout-timed-out"] * 2
    assert await floor.bureau.choreography("o1") == "withdrawn CheckoutWithdrawn"
    assert await floor.bureau.deadlines.step() == 0
    assert await floor.told(Verb.RETRY, "o1", key="again") == "not-parked"


async def test_a_choreography_is_ended_on_the_proof_that_nothing_is_owed(floor: Floor) -> None:
    await parked_choreography(floor)
    assert await floor.told(Verb.SKIP, "o1", proof=PROOF) == "no-coordinator"
    assert await floor.told(Verb.END, "o1") == "still-owed"
    assert await floor.told(Verb.END, "o1", key="proven", proof="no trail in any service") == "order-rejected"
    assert await floor.bureau.order("o1") == "rejected forced-end"
    assert await floor.bureau.choreography("o1") == "ended CheckoutWithdrawn"
    # Who hears of it later is told the same, and nothing more happens.
    await floor.bureau.hear(booked("o1"))
    await floor.bureau.hear(returned("o1", "checkout-timed-out"))
    assert await floor.bureau.order("o1") == "rejected forced-end"


async def test_a_choreography_that_moves_is_not_ended(floor: Floor) -> None:
    await floor.bureau.place("o1")
    assert await floor.told(Verb.END, "o1", proof=PROOF) == "still-moving"
    await floor.bureau.rows("UPDATE choreographies SET moved_at = now() - interval '1 hour'")
    assert await floor.told(Verb.END, "o1", proof=PROOF) == "not-withdrawn"


async def test_a_naive_order_that_nobody_goes_on_with_is_ended_on_a_proof(floor: Floor) -> None:
    await abandoned_naive(floor)
    for verb in (Verb.RETRY, Verb.SKIP, Verb.COMPENSATE):
        assert await floor.told(verb, "o1", proof=PROOF) == "no-coordinator"
    assert await floor.told(Verb.END, "o1") == "still-owed"
    assert await floor.told(Verb.END, "o1", key="proven", proof=PROOF) == "order-rejected"
    assert await floor.bureau.order("o1") == "rejected forced-end"


# What is kept of it.


async def test_who_did_what_and_why_is_kept_and_so_is_what_was_refused(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    await floor.bureau.place("o2", TCC)
    assert await floor.told(Verb.COMPENSATE, "o1") == "already-going-back"
    assert await floor.told(Verb.SKIP, "o1", step="place-order", proof=PROOF) == "not-skippable"
    assert await floor.told(Verb.RETRY, "o1") == "resumed"
    assert await floor.told(Verb.RETRY, "o2") == "not-parked"
    assert await floor.told(Verb.END, "o404") == "not-found"
    rows = await floor.bureau.rows(
        "SELECT transaction_id, verb, who, why, proof, outcome FROM operator_actions ORDER BY action_id"
    )
    assert [tuple(row) for row in rows] == [
        ("o1", "compensate", "olga", "the bank was down", "", "refused: already-going-back"),
        ("o1", "skip", "olga", "the bank was down", PROOF, "refused: not-skippable"),
        ("o1", "retry", "olga", "the bank was down", "", "resumed"),
        ("o2", "retry", "olga", "the bank was down", "", "refused: not-parked"),
        ("o404", "end", "olga", "the bank was down", "", "refused: not-found"),
    ]
    assert await floor.outcomes("o1") == [
        "retry resumed",
        "skip refused: not-skippable",
        "compensate refused: already-going-back",
    ]
    first = await floor.reader.actions("", 2, "")
    rest = await floor.reader.actions("", 9, first.next_before)
    assert [one.transaction_id for one in (*first.actions, *rest.actions)] == ["o404", "o2", "o1", "o1", "o1"]


async def test_the_log_tells_who_let_it_go_on(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    await floor.intervene(Verb.SKIP, "o1", proof=PROOF)
    lines = (await floor.log.load(["o1"]))["o1"].lines
    assert lines[-1].entry == Skipped("charge", "olga", "the bank was down", PROOF)


async def test_who_or_why_left_out_is_no_attempt(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    for verb, why, proof in ((Verb.RETRY, " ", ""), (Verb.SKIP, "because", ""), (Verb.RETRY, "w" * 1001, "")):
        with pytest.raises(Invalid):
            await floor.intervene(verb, "o1", proof=proof, why=why)
    assert await floor.actions() == []


async def test_a_repeat_changes_nothing_and_is_answered_the_same(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    first = await floor.intervene(Verb.SKIP, "o1", "k1", "charge", PROOF)
    again = await floor.intervene(Verb.SKIP, "o1", "k1", "charge", PROOF)
    assert again.action == first.action
    assert (await floor.words("o1")).count("Skipped") == 1
    assert await floor.outcomes() == ["skip skipped"]
    with pytest.raises(Mismatch):
        await floor.intervene(Verb.SKIP, "o1", "k1", "charge", "another proof")
    assert await floor.outcomes() == ["skip refused: idempotency-key-reused", "skip skipped"]


async def test_a_repeat_of_what_was_refused_is_decided_again_and_kept_once(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_REFUND[:-1])
    assert [await floor.told(Verb.RETRY, "o1", "k1") for _ in range(3)] == ["not-parked"] * 3
    assert await floor.outcomes() == ["retry refused: not-parked"]
    await floor.bureau.rows('INSERT INTO saga_log VALUES (\'o1\', 6, now(), \'{"type": "Parked", "reason": "stuck"}\')')
    assert [await floor.told(Verb.RETRY, "o1", "k1") for _ in range(2)] == ["resumed"] * 2
    assert await floor.outcomes() == ["retry resumed", "retry refused: not-parked"]


# Races.


async def test_of_two_operators_one_finds_out(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    verbs = [floor.told(Verb.RETRY, "o1", f"k{number}") for number in range(8)]
    told = Counter(await asyncio.gather(*verbs))
    assert told["resumed"] == 1
    assert set(told) <= {"resumed", "overtaken", "not-parked"}
    assert (await floor.words("o1")).count("Resumed") == 1
    assert len(await floor.actions()) == 8


async def test_one_request_sent_twice_at_once_is_done_once(floor: Floor) -> None:
    await floor.park("o1", *AT_THE_REFUND)
    done = await asyncio.gather(*(floor.told(Verb.RETRY, "o1", "k1") for _ in range(5)))
    assert set(done) == {"resumed"}
    assert (await floor.words("o1")).count("Resumed") == 1


@pytest.mark.parametrize("style", [ORCHESTRATED, TCC, TWO_PHASE])
async def test_compensate_and_a_running_coordinator_agree_on_how_it_ends(floor: Floor, style: str) -> None:
    ids = [f"o{number:02}" for number in range(40)]
    async with floor.running():
        told = await asyncio.gather(*(placed_and_compensated(floor, one, style, at % 5) for at, one in enumerate(ids)))
        await floor.until_ended(*ids)
    for order_id, outcome in zip(ids, told, strict=True):
        asked = set(floor.peer.of(order_id))
        if outcome == "withdrawn":
            assert await floor.bureau.order(order_id) == "rejected compensated-by-operator"
            assert not asked & {"confirm-stock", "capture", "commit-stock"}
            assert (await floor.seen(order_id)).reason == "undone"
        else:
            assert outcome in {"order-confirmed", "already-ended"}
            assert await floor.bureau.order(order_id) == "confirmed"
            assert not asked & {"restock", "release-stock", "roll-back-stock"}
            assert (await floor.seen(order_id)).reason == "completed"
    assert len(await floor.actions()) == len(ids)
    assert len(set(told)) > 1, "both can be seen to win"


async def placed_and_compensated(floor: Floor, order_id: str, style: str, calls: int) -> str:
    """Compensated after so many calls, the last of which comes right before the pivot; or when it is over."""
    await floor.bureau.place(order_id, style)
    if calls <= CALLS_BEFORE_PIVOT:
        await floor.peer.until_asked(order_id, calls)
    else:
        await floor.until_ended(order_id)
    while (told := await floor.told(Verb.COMPENSATE, order_id)) == "version-conflict":
        pass
    return told


async def test_an_end_and_the_services_that_come_back_agree_on_how_it_ends(floor: Floor) -> None:
    ids = [f"o{number}" for number in range(6)]
    for order_id in ids:
        await parked_choreography(floor, order_id)
    told = await asyncio.gather(
        *(floor.told(Verb.END, order_id, proof=PROOF) for order_id in ids),
        *(floor.bureau.hear(returned(order_id, "checkout-timed-out")) for order_id in ids),
    )
    for order_id, outcome in zip(ids, told[: len(ids)], strict=True):
        ended = await floor.bureau.order(order_id)
        expected = "rejected forced-end" if outcome == "order-rejected" else "rejected checkout-timed-out"
        assert ended == expected, outcome
        assert (await floor.bureau.choreography(order_id)).startswith("ended")
