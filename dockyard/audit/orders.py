"""G1 to G4 recomputed: each order ends, its effects happen once, and it keeps what it must and nothing else.

The card processor's memory is the outside witness: money is judged by what it took, not by what payment believes.
Transactions of people (not started by an order) are held to the rules of their own service only.
"""

from collections.abc import Iterator

from dockyard.audit.evidence import (
    AUTHORISED,
    ENDED_EMPTY,
    HELD,
    KEPT,
    LIVE_SHIPMENT,
    NAIVE,
    ORDER_PREFIX,
    UNFINISHED,
    VOIDED,
    Evidence,
    Violation,
)
from dockyard.audit.records import OrderRecord, Records

# A choreography is withdrawn or parked by a query that looks every second or so; a prepared transaction is asked about
# after half a minute, and then ended. Whoever is later than this by so much was forgotten.
OVERDUE_SECONDS_MAX = 15.0
PREPARED_SECONDS_MAX = 60.0


def g1_every_order_ends(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """A pending order has somebody at work on it, or is parked with a reason; calls in a row have nobody."""
    for order in records.orders:
        if order.status != "pending":
            continue
        worker = evidence.worker(order)
        if evidence.is_abandoned(order):
            yield Violation("G1", "abandoned", (order.order_id,), _abandoned(order, known=worker is not None))
        elif worker is not None and worker.status == "parked" and not worker.parked_reason:
            yield Violation("G1", "parked-without-reason", (order.order_id,), "parked, and nobody says why")


def _abandoned(order: OrderRecord, *, known: bool) -> str:
    if order.coordination == NAIVE:
        return "pending for ever: whoever made its calls is gone, and nothing remembers how far they were"
    return "pending, and its checkout has ended" if known else "pending, and no checkout knows it"


def g1_choreographies_keep_their_deadline(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """A choreographed checkout that does not end is withdrawn at its deadline, and parked at its next one."""
    for one in records.choreographies:
        if one.status in UNFINISHED and one.overdue_seconds > OVERDUE_SECONDS_MAX:
            message = f"{one.status}, and its deadline passed {one.overdue_seconds:.0f} s ago"
            yield Violation("G1", "choreography-overdue", (one.order_id,), message)


def g2_effects_happen_once(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """No transaction was charged, deducted or shipped twice."""
    for transaction_id, remembered in evidence.charges.items():
        charges = [charge for charge in remembered if charge.status != VOIDED]
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
        if not 0 <= charge.refunded_minor <= charge.taken_minor:
            message = f"refunded {charge.refunded_minor} of {charge.taken_minor}"
            yield Violation("G2", "refunded-too-much", (charge.charge_id,), message)


def g3_confirmed_orders_are_paid_taken_and_shipped(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """Confirmed means one unrefunded charge for the total, the stock gone, one live shipment."""
    for order in records.orders:
        if order.status in KEPT:
            yield from _paid(order, evidence)
            yield from _taken(order, evidence)
            yield from _shipped(order, evidence)


def _paid(order: OrderRecord, evidence: Evidence) -> Iterator[Violation]:
    charges = evidence.charges.get(order.order_id, ())
    kept = [charge for charge in charges if charge.taken_minor and charge.refunded_minor == 0]
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
    """An order that ended without being confirmed, or that nobody will ever end, keeps no money, stock or shipment."""
    for order in records.orders:
        if order.status in ENDED_EMPTY or evidence.is_abandoned(order):
            yield from _kept(order, evidence)


def _kept(order: OrderRecord, evidence: Evidence) -> Iterator[Violation]:
    for charge in evidence.charges.get(order.order_id, ()):
        if charge.kept_minor:
            message = f"{order.status}, and kept {charge.kept_minor} {charge.currency}"
            yield Violation("G4", "money-kept", (order.order_id, charge.charge_id), message)
    for deduction in evidence.deductions.get(order.order_id, ()):
        if deduction.status == "deducted":
            message = f"{order.status}, and kept {dict(deduction.lines)}"
            yield Violation("G4", "stock-kept", (order.order_id,), message)
    for shipment in evidence.shipments.get(order.order_id, ()):
        if shipment.status in LIVE_SHIPMENT:
            message = f"{order.status}, and its shipment is {shipment.status}"
            yield Violation("G4", "shipment-kept", (order.order_id, shipment.shipment_id), message)


def g4_no_hold_outlives_its_order(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """What was held for an order is used or let go by the time it has ended; of a confirmed one it is G3 that broke."""
    for order in records.orders:
        if order.status != "pending" or evidence.is_abandoned(order):
            guarantee = "G3" if order.status in KEPT else "G4"
            for what, *ids in _held(order, evidence):
                message = f"the order is {order.status}, and {what}"
                yield Violation(guarantee, "hold-left", (order.order_id, *ids), message)


def _held(order: OrderRecord, evidence: Evidence) -> Iterator[tuple[str, ...]]:
    """What is kept from others for this order and is not final: in words, and the ids beside the order's."""
    for deduction in evidence.deductions.get(order.order_id, ()):
        if deduction.status == HELD:
            yield (f"its stock is held: {dict(deduction.lines)}",)
    for payment in evidence.payments.get(order.order_id, ()):
        if payment.status == AUTHORISED:
            yield f"its payment of {payment.amount_minor} {payment.currency} is authorised", payment.payment_id
    for charge in evidence.charges.get(order.order_id, ()):
        if charge.status == AUTHORISED:
            yield f"the processor keeps {charge.amount_minor} {charge.currency} authorised", charge.charge_id
    for shipment in evidence.shipments.get(order.order_id, ()):
        if shipment.status == HELD:
            yield "its place with the carrier is held", shipment.shipment_id


def g4_nothing_stays_prepared(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """A prepared transaction ends with its order, and before its bound: what it locked is locked for everybody."""
    orders = {order.order_id: order for order in records.orders}
    for one in records.prepared:
        ids = (one.transaction_id, one.gid) if one.transaction_id else (one.gid,)
        order = orders.get(one.transaction_id)
        if one.age_seconds > PREPARED_SECONDS_MAX:
            message = f"prepared in {one.service} for {one.age_seconds:.0f} s"
            yield Violation("G4", "prepared-left", ids, message)
        elif order is not None and (order.status != "pending" or evidence.is_abandoned(order)):
            message = f"prepared in {one.service}, and the order is {order.status}"
            yield Violation("G3" if order.status in KEPT else "G4", "prepared-left", ids, message)


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
        if charge.kept_minor or charge.status == AUTHORISED:
            message = f"{charge.status}, and no payment knows it"
            yield Violation("G4", "orphan-charge", (charge.charge_id, charge.reference), message)
