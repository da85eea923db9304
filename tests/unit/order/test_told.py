"""One order's story put together: in one line of time, with what an unfinished one waits for."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from libs.eventsourcing.store import Recorded
from libs.kernel.money import Money
from libs.runtime.position import Position
from libs.saga.entries import (
    AnyEntry,
    Ended,
    FaultKind,
    Parked,
    PivotDecided,
    Started,
    StepDone,
    StepFailed,
    StepRefused,
    UndoDecided,
)
from libs.saga.log import Instance, Line, Remembered
from services.order.adapters.codec import CODEC
from services.order.adapters.timeline import Choreography, Known, Message, told
from services.order.choreography import Stage
from services.order.domain import (
    CHOREOGRAPHED,
    NAIVE,
    ORCHESTRATED,
    TCC,
    TWO_PHASE,
    Address,
    CancelRequested,
    CheckoutWithdrawn,
    Event,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    PricedLine,
    fold,
)
from services.order.reading import Kept, Kind, ServiceTrail, Timeline, TimelineEntry
from services.order.saga import CANCELLATION, CHECKOUTS, Cancellation, checkout_of

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = NOON + timedelta(seconds=20)
ADA = Address("Ada", "Quay 1", "Hamburg", "20457", "DE")
LAMPS = (PricedLine("lamp", 2, Money(4900, "EUR")),)


def at(ms: int) -> datetime:
    return NOON + timedelta(milliseconds=ms)


def known(coordination: str, *more: Event, **others: Any) -> Known:
    placed = OrderPlaced("ord_1", "ada", LAMPS, Money(9800, "EUR"), "tok_ok", ADA, coordination, NOON)
    events: tuple[Event, ...] = (placed, *more)
    recorded = []
    for version, event in enumerate(events, 1):
        name, data = CODEC.encode(event)
        recorded.append(Recorded(Position(1, version), "ord_1", version, name, data.decode(), "", event.at))
    return Known(fold(events), recorded, **others)


def saga(coordination: str, *entries: AnyEntry) -> Remembered:
    order = known(coordination).order
    instance = Instance("ord_1", CHECKOUTS[coordination].name, 1, checkout_of(order), "", NOON)
    return Remembered(instance, "", [Line(seq, at(10 * seq), entry) for seq, entry in enumerate(entries, 1)])


def shown(timeline: Timeline) -> list[tuple[int, str, str, Kind]]:
    start = timeline.entries[0].at
    return [
        (round((one.at - start) / timedelta(milliseconds=1)), one.service, one.what, one.kind)
        for one in timeline.entries
    ]


def test_events_log_and_what_the_services_did_are_one_line_of_time() -> None:
    checkout = saga(
        ORCHESTRATED,
        Started(),
        StepDone("place-order"),
        StepDone("deduct-stock"),
        StepRefused("charge", "card-declined", "no"),
        UndoDecided("charge", "card-declined", "no"),
        Ended("undone"),
    )
    stock = TimelineEntry(at(25), "inventory", "stock deducted", "deduct-stock", kind=Kind.EFFECT)
    card = TimelineEntry(at(35), "payment", "card charged: refused card-declined", "charge", kind=Kind.EFFECT)
    rejected = OrderRejected("card-declined", "no", at(55))
    timeline = told(
        known(ORCHESTRATED, rejected, sagas=[checkout]), [ServiceTrail([card]), ServiceTrail([stock])], LATER
    )
    assert shown(timeline) == [
        (0, "order", "OrderPlaced", Kind.EVENT),
        (10, "order", "saga started", Kind.LOG),
        (20, "order", "place-order done", Kind.LOG),
        (25, "inventory", "stock deducted", Kind.EFFECT),
        (30, "inventory", "deduct-stock done", Kind.LOG),
        (35, "payment", "card charged: refused card-declined", Kind.EFFECT),
        (40, "payment", "charge refused: card-declined", Kind.LOG),
        (50, "payment", "undo decided: card-declined", Kind.LOG),
        (55, "order", "OrderRejected", Kind.EVENT),
        (60, "order", "saga ended: undone", Kind.LOG),
    ]
    assert (timeline.coordination, timeline.state, timeline.waits_for, timeline.waits_since) == (
        ORCHESTRATED, "undone", "", None,
    )  # fmt: skip
    assert [one.detail for one in timeline.entries if one.what == "OrderRejected"] == ["card-declined: no"]


def test_what_is_kept_from_others_is_told_with_its_service_and_its_end() -> None:
    held = Kept("stock held", "inventory", at(12), at(40))
    authorised = Kept("money authorised", "payment", at(11), None)
    timeline = told(
        known(TCC, sagas=[saga(TCC, Started())]), [ServiceTrail([], [held]), ServiceTrail([], [authorised])], LATER
    )
    assert timeline.kept == (authorised, held)


def test_a_service_that_is_down_is_missing_and_the_rest_is_told() -> None:
    missing = TimelineEntry(LATER, "payment", "unavailable", detail="connection refused", kind=Kind.UNAVAILABLE)
    timeline = told(known(ORCHESTRATED, sagas=[saga(ORCHESTRATED, Started())]), [ServiceTrail([missing])], LATER)
    assert [one.what for one in timeline.entries] == ["OrderPlaced", "saga started", "unavailable"]


TRIED_TWICE = (
    StepFailed("hold-stock", 1, FaultKind.UNAVAILABLE, "down"),
    StepFailed("hold-stock", 2, FaultKind.UNAVAILABLE, "down"),
)


@pytest.mark.parametrize(
    ("coordination", "entries", "state", "waits_for"),
    [
        (ORCHESTRATED, (StepDone("place-order"),), "running", "deduct-stock (try 1)"),
        (
            ORCHESTRATED,
            (StepDone("place-order"), StepFailed("deduct-stock", 1, FaultKind.IN_DOUBT, "silence")),
            "running",
            "deduct-stock (try 2)",
        ),
        (
            TCC,
            (StepDone("place-order"), StepDone("hold-payment"), StepDone("hold-shipment"), *TRIED_TWICE),
            "running",
            "hold-stock (try 3)",
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
    ],
)
def test_an_unfinished_saga_of_each_style_says_what_it_waits_for_since_when(
    coordination: str, entries: tuple[AnyEntry, ...], state: str, waits_for: str
) -> None:
    checkout = saga(coordination, Started(), *entries)
    timeline = told(known(coordination, sagas=[checkout]), [], LATER)
    assert (timeline.state, timeline.waits_for) == (state, waits_for)
    assert timeline.waits_since == checkout.lines[-1].at


def test_a_cancellation_that_is_parked_tells_the_order_although_its_checkout_was_choreographed() -> None:
    instance = Instance("ord_1/cancel/3", CANCELLATION.name, 1, Cancellation("ord_1"), "", LATER)
    log: tuple[AnyEntry, ...] = (Started(), PivotDecided("cancel-booking"), Parked("refund failed"))
    parked = Remembered(instance, "parked", [Line(seq, LATER, entry) for seq, entry in enumerate(log, 1)])
    checkout = Choreography(Stage.ENDED, "ShipmentBooked", at(40), "")
    timeline = told(known(CHOREOGRAPHED, OrderConfirmed(at(40)), sagas=[parked], choreography=checkout), [], LATER)
    assert (timeline.state, timeline.waits_for, timeline.waits_since) == (
        "parked", "an operator: refund failed", LATER,
    )  # fmt: skip


def test_a_pending_choreographed_order_whose_customer_cancels_says_so_and_a_confirmed_one_has_nobody_to_tell() -> None:
    asked = CancelRequested("rain", at(9))
    pending = choreographed(Choreography(Stage.WITHDRAWN, "CheckoutWithdrawn", at(9), ""), asked)
    confirmed = choreographed(Choreography(Stage.ENDED, "ShipmentBooked", at(8), ""), OrderConfirmed(at(8)), asked)
    said = [[one.what for one in each.entries if one.kind is Kind.MESSAGE] for each in (pending, confirmed)]
    assert said == [["said OrderPlaced", "said CheckoutWithdrawn"], ["said OrderPlaced"]]


def choreographed(choreography: Choreography, *events: Event) -> Timeline:
    return told(known(CHOREOGRAPHED, *events, choreography=choreography), [], LATER)


def test_what_a_choreographed_order_said_and_heard_is_told() -> None:
    messages = [
        Message(at(30), "StockDeducted", ""),
        Message(at(70), "PaymentRefused", "card-declined"),
        Message(at(90), "Parked", "nothing followed"),
    ]
    withdrawn = CheckoutWithdrawn("checkout-timed-out", "too long", at(60))
    timeline = choreographed(Choreography(Stage.PARKED, "PaymentRefused", at(90), "", messages), withdrawn)
    assert [(one.what, one.detail) for one in timeline.entries if one.kind is Kind.MESSAGE] == [
        ("said OrderPlaced", ""),
        ("heard StockDeducted", ""),
        ("said CheckoutWithdrawn", ""),
        ("heard PaymentRefused", "card-declined"),
        ("parked", "nothing followed"),
    ]


@pytest.mark.parametrize(
    ("choreography", "state", "waits_for"),
    [
        (Choreography(Stage.RUNNING, "", at(5), ""), "running", "its first reaction"),
        (Choreography(Stage.RUNNING, "StockDeducted", at(5), ""), "running", "what follows StockDeducted"),
        (Choreography(Stage.RUNNING, "PaymentRefused", at(5), ""), "undoing", "what follows PaymentRefused"),
        (Choreography(Stage.WITHDRAWN, "StockDeducted", at(5), ""), "undoing", "what follows StockDeducted"),
        (Choreography(Stage.PARKED, "StockDeducted", at(5), "nobody answers"), "parked", "an operator: nobody answers"),
    ],
)
def test_an_unfinished_choreography_says_what_it_waits_for_since_when(
    choreography: Choreography, state: str, waits_for: str
) -> None:
    timeline = choreographed(choreography)
    assert (timeline.state, timeline.waits_for, timeline.waits_since) == (state, waits_for, at(5))


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ((OrderConfirmed(at(9)),), "completed"),
        ((CheckoutWithdrawn("deadline", "too long", at(8)), OrderRejected("deadline", "too long", at(9))), "undone"),
    ],
)
def test_a_choreography_that_ended_waits_for_nothing(events: tuple[Event, ...], state: str) -> None:
    timeline = choreographed(Choreography(Stage.ENDED, "StockReturned", at(9), ""), *events)
    assert (timeline.state, timeline.waits_for, timeline.waits_since) == (state, "", None)


CHARGED = TimelineEntry(at(500), "payment", "card charged", "charge", kind=Kind.EFFECT)
SILENT = TimelineEntry(LATER, "shipping", "unavailable", kind=Kind.UNAVAILABLE)


@pytest.mark.parametrize(
    ("now", "state", "waits_for"),
    [
        (at(900), "running", "the answer to its next call"),
        (
            at(61_000),
            "parked",
            "an operator: its calls ended without a decision, nobody goes on with it",
        ),
    ],
)
def test_a_naive_order_waits_since_the_last_thing_that_anybody_did(now: datetime, state: str, waits_for: str) -> None:
    timeline = told(known(NAIVE), [ServiceTrail([CHARGED]), ServiceTrail([SILENT])], now)
    assert (timeline.state, timeline.waits_for, timeline.waits_since) == (state, waits_for, at(500))


@pytest.mark.parametrize(
    ("event", "state"), [(OrderConfirmed(at(9)), "completed"), (OrderRejected("zone", "no", at(9)), "ended")]
)
def test_a_naive_order_that_was_decided_waits_for_nothing_whatever_was_left_behind(event: Event, state: str) -> None:
    timeline = told(known(NAIVE, event), [ServiceTrail([CHARGED])], LATER)
    assert (timeline.state, timeline.waits_for, timeline.waits_since) == (state, "", None)


def test_an_order_rejected_as_it_was_placed_waits_for_nothing() -> None:
    timeline = told(known(CHOREOGRAPHED, OrderRejected("unknown-product", "no", NOON)), [ServiceTrail([])], LATER)
    assert (timeline.state, timeline.waits_for, timeline.kept) == ("completed", "", ())
