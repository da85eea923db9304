"""What operators may do, decided: each verb, each refusal, and every parked state of every saga."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from libs.kernel.errors import Conflict, Invalid
from libs.saga.definition import Kind, Saga, Step
from libs.saga.entries import (
    AnyEntry,
    CancelRequested,
    Ended,
    EndForced,
    FaultKind,
    Parked,
    PivotDecided,
    Resumed,
    Skipped,
    StepDone,
    StepFailed,
    UndoDecided,
    UndoDone,
    UndoFailed,
)
from libs.saga.log import PARKED, RUNNING, UNDOING
from libs.saga.machine import Phase
from services.order import domain
from services.order.domain import CHOREOGRAPHED, NAIVE, Order
from services.order.operations import (
    COMPENSATED,
    FORCED_END,
    Intervention,
    Line,
    OrderSubject,
    SagaSubject,
    Verb,
    checked,
    checked_state,
    event_of_order,
    event_of_saga,
    line_for,
    owed,
)
from services.order.saga import CANCELLATION, CHECKOUT, CHECKOUT_TCC, CHECKOUT_TWO_PHASE
from tests.unit.order.parked import LATER, NOON, logged, order

CONFIRMED = order(domain.OrderConfirmed(LATER))
WITHDRAWN = order(domain.CheckoutWithdrawn(COMPENSATED, "", LATER))
CANCELLING = order(domain.OrderConfirmed(LATER), domain.CancelRequested("too late", LATER))


def wants(verb: Verb, step: str = "", proof: str = "") -> Intervention:
    return Intervention("key", verb, "ord_1", "olga", "the bank is back", step, proof)


def tired(step: str, tries: int = 60) -> list[AnyEntry]:
    return [StepFailed(step, n, FaultKind.IN_DOUBT, "no answer") for n in range(1, tries + 1)]


def tired_of_undoing(step: str) -> list[AnyEntry]:
    return [UndoFailed(step, n, "no answer") for n in range(1, 61)]


def done(*steps: str) -> list[AnyEntry]:
    return [StepDone(step) for step in steps]


GOING_BACK = [*done("place-order", "deduct-stock", "charge"), UndoDecided("book-shipment", "no-capacity", "full")]
STUCK_AT_THE_REFUND = logged(CHECKOUT, *GOING_BACK, *tired_of_undoing("charge"), Parked("stuck"))
STUCK_AT_THE_ORDER = logged(
    CHECKOUT,
    *GOING_BACK,
    UndoDone("charge"),
    UndoDone("deduct-stock"),
    *tired_of_undoing("place-order"),
    Parked("stuck"),
)
STUCK_AT_THE_PIVOT = logged(
    CHECKOUT,
    *done("place-order", "deduct-stock", "charge", "book-shipment"),
    PivotDecided("confirm-order"),
    *tired("confirm-order"),
    Parked("stuck"),
)
HELD = done("place-order", "hold-stock", "hold-payment", "hold-shipment")
STUCK_AT_A_CONFIRM = logged(
    CHECKOUT_TCC,
    *HELD,
    PivotDecided("decide-confirm"),
    *done("decide-confirm", "confirm-stock", "confirm-shipment"),
    *tired("confirm-payment"),
    Parked("stuck"),
)
TAKING_BACK = [StepDone("request-cancel"), PivotDecided("cancel-booking"), *done("cancel-booking", "refund", "restock")]
STUCK_AT_THE_END_OF_A_CANCELLATION = logged(CANCELLATION, *TAKING_BACK, *tired("mark-cancelled"), Parked("stuck"))
STUCK_AT_REFUSING_A_CANCELLATION = logged(
    CANCELLATION,
    StepDone("request-cancel"),
    PivotDecided("cancel-booking"),
    UndoDecided("cancel-booking", "already-dispatched", "gone"),
    *tired_of_undoing("request-cancel"),
    Parked("stuck"),
)
RUNS = logged(CHECKOUT, *done("place-order", "deduct-stock"))
OVER = logged(CHECKOUT, *GOING_BACK, Ended("undone"))


def refusal(one: Intervention, seen: SagaSubject, order: Order) -> str:
    with pytest.raises(Conflict) as refused:
        decided(one, seen, order)
    return refused.value.code


def decided(one: Intervention, seen: SagaSubject, order: Order) -> tuple[Line | None, domain.Change | None]:
    return line_for(one, seen, order), event_of_saga(one, seen, order, LATER)


@pytest.mark.parametrize(
    "seen", [STUCK_AT_THE_REFUND, STUCK_AT_THE_PIVOT, STUCK_AT_A_CONFIRM], ids=["refund", "pivot", "confirm"]
)
def test_whatever_is_parked_may_be_retried(seen: SagaSubject) -> None:
    assert decided(wants(Verb.RETRY), seen, order()) == (Resumed("olga", "the bank is back"), None)


@pytest.mark.parametrize("verb", [Verb.RETRY, Verb.SKIP, Verb.END])
def test_what_runs_is_left_to_its_coordinator(verb: Verb) -> None:
    assert refusal(wants(verb, proof="seen"), RUNS, order()) == "not-parked"


@pytest.mark.parametrize("verb", Verb)
def test_what_has_ended_stays_as_it_is(verb: Verb) -> None:
    assert refusal(wants(verb, proof="seen"), OVER, order()) == "already-ended"


def test_a_proof_stands_for_the_undo_that_nobody_answers() -> None:
    assert STUCK_AT_THE_REFUND.provable == ("charge", "deduct-stock")
    skipped = Skipped("charge", "olga", "the bank is back", "bank statement 7")
    assert decided(wants(Verb.SKIP, "", "bank statement 7"), STUCK_AT_THE_REFUND, WITHDRAWN) == (skipped, None)


def test_a_proof_stands_for_the_confirm_that_nobody_answers() -> None:
    line, event = decided(wants(Verb.SKIP, "confirm-payment", "captured by hand"), STUCK_AT_A_CONFIRM, CONFIRMED)
    assert line == Skipped("confirm-payment", "olga", "the bank is back", "captured by hand")
    assert event is None


@pytest.mark.parametrize(
    ("step", "seen", "code"),
    [
        ("", STUCK_AT_THE_PIVOT, "pivot"),
        ("confirm-order", STUCK_AT_THE_PIVOT, "pivot"),
        ("book-shipment", STUCK_AT_THE_REFUND, "not-skippable"),
        ("place-order", STUCK_AT_THE_REFUND, "not-skippable"),
        ("no-such-step", STUCK_AT_THE_REFUND, "not-skippable"),
        ("confirm-stock", STUCK_AT_A_CONFIRM, "not-skippable"),
        ("", STUCK_AT_THE_ORDER, "own-step"),
        ("mark-cancelled", STUCK_AT_THE_END_OF_A_CANCELLATION, "own-step"),
    ],
)
def test_no_proof_stands_for_the_pivot_nor_for_what_the_order_knows_itself(
    step: str, seen: SagaSubject, code: str
) -> None:
    assert refusal(wants(Verb.SKIP, step, "seen"), seen, order()) == code


def test_a_running_checkout_is_withdrawn_and_its_coordinator_writes_the_rest() -> None:
    line, event = decided(wants(Verb.COMPENSATE), RUNS, order())
    assert line is None
    assert event == domain.CheckoutWithdrawn(COMPENSATED, "the bank is back", LATER)


def test_a_pivot_nobody_answered_is_asked_again_once_the_order_is_withdrawn() -> None:
    line, event = decided(wants(Verb.COMPENSATE), STUCK_AT_THE_PIVOT, order())
    assert line == Resumed("olga", "the bank is back")
    assert isinstance(event, domain.CheckoutWithdrawn)
    assert decided(wants(Verb.COMPENSATE), STUCK_AT_THE_PIVOT, WITHDRAWN) == (line, None)


@pytest.mark.parametrize(
    ("seen", "order", "code"),
    [
        (STUCK_AT_A_CONFIRM, CONFIRMED, "order-confirmed"),
        (STUCK_AT_THE_PIVOT, CONFIRMED, "order-confirmed"),
        (RUNS, CONFIRMED, "order-confirmed"),
        (STUCK_AT_THE_REFUND, WITHDRAWN, "already-going-back"),
        (logged(CHECKOUT, *GOING_BACK), WITHDRAWN, "already-going-back"),
        (STUCK_AT_THE_END_OF_A_CANCELLATION, CANCELLING, "not-a-checkout"),
    ],
)
def test_what_is_decided_or_goes_back_is_not_compensated(seen: SagaSubject, order: Order, code: str) -> None:
    assert refusal(wants(Verb.COMPENSATE), seen, order) == code


@pytest.mark.parametrize(
    ("seen", "order", "left"),
    [
        (STUCK_AT_THE_REFUND, WITHDRAWN, ("undo of charge", "undo of deduct-stock")),
        (STUCK_AT_THE_PIVOT, order(), ("undo of deduct-stock", "undo of charge", "undo of book-shipment")),
        (STUCK_AT_A_CONFIRM, CONFIRMED, ("confirm-payment",)),
        (STUCK_AT_THE_PIVOT, CONFIRMED, ()),
        (STUCK_AT_THE_ORDER, order(), ()),
        (STUCK_AT_THE_END_OF_A_CANCELLATION, CANCELLING, ()),
        (STUCK_AT_REFUSING_A_CANCELLATION, CANCELLING, ()),
        (
            logged(
                CANCELLATION,
                StepDone("request-cancel"),
                PivotDecided("cancel-booking"),
                *tired("cancel-booking"),
                Parked("stuck"),
            ),
            CANCELLING,
            ("cancel-booking", "refund", "restock"),
        ),
    ],
)
def test_an_end_says_what_is_owed(seen: SagaSubject, order: Order, left: tuple[str, ...]) -> None:
    assert owed(seen, order) == left
    if left:
        with pytest.raises(Conflict, match=", ".join(left)) as refused:
            line_for(wants(Verb.END), seen, order)
        assert refused.value.code == "still-owed"
        assert refused.value.details == {"owed": ", ".join(left)}
    else:
        assert line_for(wants(Verb.END), seen, order) == EndForced("olga", "the bank is back")


def test_an_end_settles_the_order_as_the_saga_would_have() -> None:
    def settled(seen: SagaSubject, order: Order) -> domain.Change | None:
        return event_of_saga(wants(Verb.END), seen, order, LATER)

    assert settled(STUCK_AT_THE_ORDER, order()) == domain.OrderRejected("no-capacity", "the bank is back", LATER)
    assert settled(STUCK_AT_THE_PIVOT, CONFIRMED) is None
    assert settled(STUCK_AT_THE_END_OF_A_CANCELLATION, CANCELLING) == domain.OrderCancelled("too late", LATER)
    refused = domain.CancelRefused("already-dispatched", LATER)
    assert settled(STUCK_AT_REFUSING_A_CANCELLATION, CANCELLING) == refused


def _parked_logs(saga: Saga) -> Iterator[SagaSubject]:
    """Parked at every step it can be parked at, after every way of having come there."""
    groups = saga.groups()
    for at, group in enumerate(groups):
        before: list[AnyEntry] = [StepDone(step.name) for earlier in groups[:at] for step in earlier]
        if group[0].kind is not Kind.COMPENSATABLE:
            yield from (logged(saga, *_committing(saga, before, list(group), stuck)) for stuck in group)
        else:
            for reached in range(at + 1, len(groups) + 1):
                yield from (logged(saga, *_undoing(saga, at, reached, stuck)) for stuck in group)


def _committing(saga: Saga, before: list[AnyEntry], group: list[Step], stuck: Step) -> list[AnyEntry]:
    pivot = next(step.name for step in saga.steps if step.kind is Kind.PIVOT)
    others = [StepDone(step.name) for step in group if step is not stuck]
    return [*before, PivotDecided(pivot), *others, *tired(stuck.name, stuck.retry.attempts_max), Parked("stuck")]


def _undoing(saga: Saga, at: int, reached: int, stuck: Step) -> list[AnyEntry]:
    """Going back from before group `reached`, undone down to group `at`, where one is stuck."""
    groups = [group for group in saga.groups() if group[0].kind is Kind.COMPENSATABLE][:reached]
    sent: list[AnyEntry] = [StepDone(step.name) for group in groups for step in group]
    undone: list[AnyEntry] = [UndoDone(step.name) for group in groups[at + 1 :] for step in group]
    undone += [UndoDone(step.name) for step in groups[at] if step is not stuck]
    back: list[AnyEntry] = [CancelRequested("no"), UndoDecided(groups[-1][-1].name, "cancel-requested", "no")]
    return [*sent, *back, *undone, *tired_of_undoing(stuck.name), Parked("stuck")]


SAGAS = (CHECKOUT, CHECKOUT_TCC, CHECKOUT_TWO_PHASE, CANCELLATION)
ORDERS = (order(), CONFIRMED, WITHDRAWN)
PARKED_STATES = [(seen, known) for saga in SAGAS for seen in _parked_logs(saga) for known in ORDERS]


def test_in_every_parked_state_no_verb_can_leave_anything_half_done() -> None:
    assert len(PARKED_STATES) > 100
    for seen, known in PARKED_STATES:
        undoing = seen.state.phase is Phase.PARKED_UNDOING
        for step in seen.provable:
            of = seen.state.of(step)
            assert not (of.undone if undoing else of.done), "what is known needs no proof"
            assert seen.saga.step(step).kind is not Kind.PIVOT, "whoever decides must be asked"
            assert not seen.is_own(seen.saga.step(step)), "the order knows that itself"
        pivot = next(step for step in seen.saga.steps if step.kind is Kind.PIVOT)
        if not undoing and not seen.state.of(pivot.name).done:
            assert seen.provable == (), "nothing is proven before it is decided"
        left = owed(seen, known)
        others = [step for step in seen.saga.steps if not seen.is_own(step)]
        if left:
            assert refusal(wants(Verb.END), seen, known) == "still-owed"
        elif undoing:
            sent = [step for step in others if step.undone_by and seen.state.of(step.name).done]
            assert all(seen.state.of(step.name).undone for step in sent)
        else:
            assert all(seen.state.of(step.name).done for step in others)


def without(style: str, status: str = RUNNING, *, is_abandoned: bool = False) -> OrderSubject:
    return OrderSubject("ord_1", style, status, "", "what follows", NOON, NOON, is_abandoned)


def pending(*events: domain.Change, style: str = CHOREOGRAPHED) -> Order:
    return order(*events, coordination=style)


GIVEN_UP = pending(domain.CheckoutWithdrawn("checkout-timed-out", "", LATER))
WANTED_BACK = pending(domain.CancelRequested("changed my mind", LATER))


def test_a_choreography_is_withdrawn_so_that_everybody_takes_back_what_he_did() -> None:
    event = event_of_order(wants(Verb.COMPENSATE), pending(), without(CHOREOGRAPHED), LATER)
    assert event == domain.CheckoutWithdrawn(COMPENSATED, "the bank is back", LATER)


def test_a_parked_choreography_is_told_again_that_it_was_withdrawn() -> None:
    for given_up, code in ((GIVEN_UP, "checkout-timed-out"), (WANTED_BACK, "changed my mind")):
        event = event_of_order(wants(Verb.RETRY), given_up, without(CHOREOGRAPHED, PARKED), LATER)
        assert event == domain.CheckoutWithdrawn(code, "said again", LATER)


def test_a_checkout_without_a_coordinator_ends_on_the_proof_that_nothing_is_owed() -> None:
    ended = domain.OrderRejected(FORCED_END, "the bank is back", LATER)
    proven = wants(Verb.END, proof="no trail in any service")
    naive = without(NAIVE, PARKED, is_abandoned=True)
    assert event_of_order(proven, pending(style=NAIVE), naive, LATER) == ended
    parked = without(CHOREOGRAPHED, PARKED, is_abandoned=True)
    assert event_of_order(proven, GIVEN_UP, parked, LATER) == ended
    cancelled = domain.OrderCancelled("changed my mind", LATER)
    assert event_of_order(proven, WANTED_BACK, parked, LATER) == cancelled


@pytest.mark.parametrize(
    ("verb", "proof", "order", "seen", "code"),
    [
        (Verb.RETRY, "", pending(), without(CHOREOGRAPHED), "not-parked"),
        (Verb.RETRY, "", pending(), without(CHOREOGRAPHED, PARKED), "not-withdrawn"),
        (Verb.RETRY, "", pending(style=NAIVE), without(NAIVE, PARKED), "no-coordinator"),
        (Verb.SKIP, "seen", pending(), without(CHOREOGRAPHED, PARKED), "no-coordinator"),
        (Verb.COMPENSATE, "", pending(style=NAIVE), without(NAIVE), "no-coordinator"),
        (Verb.COMPENSATE, "", GIVEN_UP, without(CHOREOGRAPHED, UNDOING), "already-going-back"),
        (Verb.END, "seen", pending(), without(CHOREOGRAPHED), "still-moving"),
        (Verb.END, "seen", pending(style=NAIVE), without(NAIVE), "still-moving"),
        (Verb.END, "seen", pending(), without(CHOREOGRAPHED, is_abandoned=True), "not-withdrawn"),
        (Verb.END, "", GIVEN_UP, without(CHOREOGRAPHED, PARKED, is_abandoned=True), "still-owed"),
        (Verb.END, "", pending(style=NAIVE), without(NAIVE, PARKED, is_abandoned=True), "still-owed"),
        (Verb.RETRY, "", pending(), without(CHOREOGRAPHED, "ended"), "already-ended"),
    ],
)
def test_a_checkout_without_a_coordinator_is_spared_what_cannot_be_done(
    verb: Verb, proof: str, order: Order, seen: OrderSubject, code: str
) -> None:
    with pytest.raises(Conflict) as refused:
        event_of_order(wants(verb, proof=proof), order, seen, LATER)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"by": ""}, "by"),
        ({"by": " "}, "by"),
        ({"by": "o" * 101}, "by"),
        ({"why": ""}, "why"),
        ({"why": "w" * 1001}, "why"),
        ({"why": "nul\0"}, "why"),
        ({"proof": ""}, "proof"),
        ({"proof": "\t"}, "proof"),
        ({"proof": "p" * 1001}, "proof"),
        ({"step": "s" * 101}, "step"),
        ({"transaction_id": ""}, "id"),
        ({"transaction_id": "a\0b"}, "id"),
        ({"transaction_id": "o" * 129}, "id"),
    ],
)
def test_who_why_and_on_what_proof_must_be_said_and_not_at_length(change: dict[str, Any], named: str) -> None:
    with pytest.raises(Invalid, match=named):
        checked(dataclasses.replace(wants(Verb.SKIP, "charge", "seen"), **change))


def test_what_is_said_is_taken_as_it_was_said() -> None:
    for one in (wants(Verb.SKIP, "charge", "seen"), wants(Verb.END), wants(Verb.END, proof="seen")):
        assert checked(one) == one
    assert checked_state("parked") == "parked"
    with pytest.raises(Invalid, match="running, undoing, parked"):
        checked_state("lost")


def test_a_repeat_is_known_by_all_that_was_asked() -> None:
    one = wants(Verb.SKIP, "charge", "seen")
    assert one.fingerprint == wants(Verb.SKIP, "charge", "seen").fingerprint
    others = [
        wants(Verb.SKIP, "charge", "heard"),
        wants(Verb.SKIP, "restock", "seen"),
        wants(Verb.END, "charge", "seen"),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4
