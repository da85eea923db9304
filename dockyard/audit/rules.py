"""Guarantees G1 to G5 recomputed from the records: pure, one function a guarantee, one violation a broken promise.

The card processor's memory is the outside witness: money is judged by what it charged, not by what payment believes.
Transactions of people (not started by an order) are held to the rules of their own service only.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dockyard.audit.records import (
    ChargeRecord,
    DeductionRecord,
    OrderRecord,
    PaymentRecord,
    Records,
    ShipmentRecord,
)

T = TypeVar("T")

KEPT = frozenset({"confirmed", "shipped"})
ENDED_EMPTY = frozenset({"rejected", "cancelled"})
LIVE_SHIPMENT = frozenset({"booked", "released", "dispatched"})
# Between these two a payment may rightly differ from the processor: the answer is still on its way.
MOVING_PAYMENT = frozenset({"charging", "refunding"})
ORDER_PREFIX = "ord_"


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """A broken promise: which guarantee, about what (ids), and what was found."""

    guarantee: str
    rule: str
    ids: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What each order's transaction left behind in the other services."""

    charges: Mapping[str, Sequence[ChargeRecord]]
    payments: Mapping[str, Sequence[PaymentRecord]]
    deductions: Mapping[str, Sequence[DeductionRecord]]
    shipments: Mapping[str, Sequence[ShipmentRecord]]


def audit(records: Records) -> list[Violation]:
    """Every violation, sorted; an empty list means each rule held for each record."""
    evidence = _evidence(records)
    return sorted(violation for rule in RULES for violation in rule(records, evidence))


def _evidence(records: Records) -> Evidence:
    transactions = {payment.payment_id: payment.transaction_id for payment in records.payments}
    return Evidence(
        charges=_by(records.charges, lambda charge: transactions.get(charge.reference, "")),
        payments=_by(records.payments, lambda payment: payment.transaction_id),
        deductions=_by(records.deductions, lambda deduction: deduction.transaction_id),
        shipments=_by(records.shipments, lambda shipment: shipment.transaction_id),
    )


def _by(items: Iterable[T], key: Callable[[T], str]) -> Mapping[str, Sequence[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def g1_every_order_ends(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """A pending order has a saga that is working on it, or that is parked with a reason."""
    sagas = {saga.saga_id: saga for saga in records.sagas}
    for order in records.orders:
        if order.status != "pending":
            continue
        saga = sagas.get(order.order_id)
        if saga is None:
            yield Violation("G1", "abandoned", (order.order_id,), "pending, and no saga knows it")
        elif saga.status == "ended":
            yield Violation("G1", "abandoned", (order.order_id,), "pending, and its saga has ended")
        elif saga.status == "parked" and not saga.parked_reason:
            yield Violation("G1", "parked-without-reason", (order.order_id,), "parked, and nobody says why")


def g2_effects_happen_once(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """No transaction was charged, deducted or shipped twice."""
    for transaction_id, charges in evidence.charges.items():
        if transaction_id.startswith(ORDER_PREFIX) and len(charges) > 1:
            ids = (transaction_id, *(charge.charge_id for charge in charges))
            yield Violation("G2", "charged-twice", ids, f"the processor charged {len(charges)} times")
    for transaction_id, deductions in evidence.deductions.items():
        if len(deductions) > 1:
            yield Violation("G2", "deducted-twice", (transaction_id,), f"{len(deductions)} deductions")
    for transaction_id, shipments in evidence.shipments.items():
        if transaction_id.startswith(ORDER_PREFIX) and len(shipments) > 1:
            ids = (transaction_id, *(shipment.shipment_id for shipment in shipments))
            yield Violation("G2", "shipped-twice", ids, f"{len(shipments)} shipments")
    for charge in records.charges:
        if not 0 <= charge.refunded_minor <= charge.amount_minor:
            message = f"refunded {charge.refunded_minor} of {charge.amount_minor}"
            yield Violation("G2", "refunded-too-much", (charge.charge_id,), message)


def g3_confirmed_orders_are_paid_taken_and_shipped(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """Confirmed means one unrefunded charge for the total, the stock gone, one live shipment."""
    for order in records.orders:
        if order.status in KEPT:
            yield from _paid(order, evidence)
            yield from _taken(order, evidence)
            yield from _shipped(order, evidence)


def _paid(order: OrderRecord, evidence: Evidence) -> Iterator[Violation]:
    kept = [charge for charge in evidence.charges.get(order.order_id, ()) if charge.refunded_minor == 0]
    if len(kept) != 1:
        yield Violation("G3", "not-paid-once", (order.order_id,), f"{len(kept)} unrefunded charges, expected 1")
    elif (kept[0].amount_minor, kept[0].currency) != (order.total_minor, order.currency):
        message = f"charged {kept[0].amount_minor} {kept[0].currency}, total is {order.total_minor} {order.currency}"
        yield Violation("G3", "wrong-amount", (order.order_id, kept[0].charge_id), message)


def _taken(order: OrderRecord, evidence: Evidence) -> Iterator[Violation]:
    taken = [item for item in evidence.deductions.get(order.order_id, ()) if item.status == "deducted"]
    if len(taken) != 1:
        yield Violation("G3", "stock-not-taken", (order.order_id,), f"{len(taken)} deductions, expected 1")
    elif dict(taken[0].lines) != dict(order.lines):
        message = f"took {dict(taken[0].lines)}, ordered {dict(order.lines)}"
        yield Violation("G3", "wrong-stock", (order.order_id,), message)


def _shipped(order: OrderRecord, evidence: Evidence) -> Iterator[Violation]:
    live = [item for item in evidence.shipments.get(order.order_id, ()) if item.status in LIVE_SHIPMENT]
    if len(live) != 1:
        yield Violation("G3", "no-live-shipment", (order.order_id,), f"{len(live)} live shipments, expected 1")


def g4_failed_orders_keep_nothing(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """An order that ended without being confirmed keeps no money, no stock and no shipment."""
    for order in records.orders:
        if order.status not in ENDED_EMPTY:
            continue
        for charge in evidence.charges.get(order.order_id, ()):
            if charge.refunded_minor != charge.amount_minor:
                message = f"kept {charge.amount_minor - charge.refunded_minor} {charge.currency}"
                yield Violation("G4", "money-kept", (order.order_id, charge.charge_id), message)
        for deduction in evidence.deductions.get(order.order_id, ()):
            if deduction.status == "deducted":
                yield Violation("G4", "stock-kept", (order.order_id,), f"kept {dict(deduction.lines)}")
        for shipment in evidence.shipments.get(order.order_id, ()):
            if shipment.status in LIVE_SHIPMENT:
                yield Violation("G4", "shipment-kept", (order.order_id, shipment.shipment_id), shipment.status)


def g4_effects_belong_to_orders(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """An effect in an order's name has an order; a charge has a payment."""
    known = {order.order_id for order in records.orders}
    for what, groups in (
        ("payment", evidence.payments),
        ("deduction", evidence.deductions),
        ("shipment", evidence.shipments),
    ):
        for transaction_id in groups:
            if transaction_id.startswith(ORDER_PREFIX) and transaction_id not in known:
                yield Violation("G4", f"orphan-{what}", (transaction_id,), "no such order")
    for charge in evidence.charges.get("", ()):
        if charge.refunded_minor != charge.amount_minor:
            yield Violation("G4", "orphan-charge", (charge.charge_id, charge.reference), "no payment knows this charge")


def g5_ledger_balances(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """Each entry sums to zero, and the ledger, the payments and the processor tell the same story."""
    for entry in records.entries:
        if entry.sum_minor != 0:
            yield Violation("G5", "entry-unbalanced", (entry.entry_id,), f"sums to {entry.sum_minor} {entry.currency}")
    ledger = {balance.payment_id: balance.charged_minor for balance in records.balances}
    kept = {charge.reference: charge.amount_minor - charge.refunded_minor for charge in records.charges}
    for payment in records.payments:
        if payment.status in MOVING_PAYMENT:
            continue
        expected = payment.amount_minor if payment.status == "charged" else 0
        if ledger.get(payment.payment_id, 0) != expected:
            message = f"payment is {payment.status}, the ledger says {ledger.get(payment.payment_id, 0)}"
            yield Violation("G5", "ledger-differs", (payment.payment_id,), message)
        if kept.get(payment.payment_id, 0) != expected:
            message = f"payment is {payment.status}, the processor kept {kept.get(payment.payment_id, 0)}"
            yield Violation("G5", "processor-differs", (payment.payment_id,), message)


def g5_stock_adds_up(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """On hand, reserved and sold make up what was received, and sold is what the deductions took."""
    taken: Counter[str] = Counter()
    for deduction in records.deductions:
        if deduction.status == "deducted":
            taken.update(deduction.lines)
    for product in records.products:
        parts = (product.on_hand, product.reserved, product.sold)
        if sum(parts) != product.received or min(parts) < 0:
            message = f"{parts[0]} on hand + {parts[1]} reserved + {parts[2]} sold, {product.received} received"
            yield Violation("G5", "stock-lost", (product.sku,), message)
        if product.sold != taken[product.sku]:
            message = f"{product.sold} sold, deductions took {taken[product.sku]}"
            yield Violation("G5", "sold-differs", (product.sku,), message)


def g5_capacity_is_not_oversold(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """No day carries more parcels than its carrier can, and the counters match the live shipments."""
    live: Counter[tuple[str, str, str]] = Counter()
    for shipment in records.shipments:
        if shipment.status in LIVE_SHIPMENT:
            live[shipment.carrier_id, shipment.zone, shipment.ship_date] += shipment.parcels
    for day in records.capacities:
        ids = (day.carrier_id, day.zone, day.ship_date)
        booked = live.pop(ids, 0)
        if day.booked > day.parcels_per_day:
            yield Violation("G5", "capacity-oversold", ids, f"{day.booked} of {day.parcels_per_day} booked")
        if day.booked != booked:
            yield Violation("G5", "capacity-differs", ids, f"{day.booked} counted, {booked} live shipments")
    for ids, booked in live.items():
        yield Violation("G5", "capacity-differs", ids, f"none counted, {booked} live shipments")


def g10_view_equals_events(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """The read model shows each order as its events add up."""
    views = {view.order_id: view for view in records.views}
    for order in records.orders:
        view = views.pop(order.order_id, None)
        if view is None:
            yield Violation("G10", "view-misses-order", (order.order_id,), f"{order.status} at {order.version}")
        elif (view.status, view.version, view.total_minor) != (order.status, order.version, order.total_minor):
            message = f"view {view.status} at {view.version}, events {order.status} at {order.version}"
            yield Violation("G10", "view-differs", (order.order_id,), message)
    for order_id in views:
        yield Violation("G10", "view-invents-order", (order_id,), "no events")


Rule = Callable[[Records, Evidence], Iterator[Violation]]

RULES: tuple[Rule, ...] = (
    g1_every_order_ends,
    g2_effects_happen_once,
    g3_confirmed_orders_are_paid_taken_and_shipped,
    g4_failed_orders_keep_nothing,
    g4_effects_belong_to_orders,
    g5_ledger_balances,
    g5_stock_adds_up,
    g5_capacity_is_not_oversold,
    g10_view_equals_events,
)
