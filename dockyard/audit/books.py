"""G5 and G10 recomputed: money, stock and capacity add up, and the read model equals its events."""

from collections import Counter
from collections.abc import Iterator

from dockyard.audit.evidence import HELD, LIVE_SHIPMENT, MOVING_PAYMENT, Evidence, Violation
from dockyard.audit.records import Records


def g5_ledger_balances(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """Each entry sums to zero, and the ledger, the payments and the processor tell the same story."""
    for entry in records.entries:
        if entry.sum_minor != 0:
            yield Violation("G5", "entry-unbalanced", (entry.entry_id,), f"sums to {entry.sum_minor} {entry.currency}")
    ledger = {balance.payment_id: balance.charged_minor for balance in records.balances}
    kept = {charge.reference: charge.kept_minor for charge in records.charges}
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
    """On hand, reserved and sold make up what was received; sold was taken by orders, reserved is held for them."""
    taken: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for deduction in records.deductions:
        if deduction.status == "deducted":
            taken.update(deduction.lines)
        elif deduction.status == HELD:
            held.update(deduction.lines)
    for product in records.products:
        parts = (product.on_hand, product.reserved, product.sold)
        if sum(parts) != product.received or min(parts) < 0:
            message = f"{parts[0]} on hand + {parts[1]} reserved + {parts[2]} sold, {product.received} received"
            yield Violation("G5", "stock-lost", (product.sku,), message)
        if product.sold != taken[product.sku]:
            message = f"{product.sold} sold, deductions took {taken[product.sku]}"
            yield Violation("G5", "sold-differs", (product.sku,), message)
        if product.reserved != held[product.sku]:
            message = f"{product.reserved} reserved, {held[product.sku]} held"
            yield Violation("G5", "reserved-mismatch", (product.sku,), message)


def g5_capacity_is_not_oversold(records: Records, evidence: Evidence) -> Iterator[Violation]:
    """No day carries more parcels than its carrier can, and the counters match the held and the live shipments."""
    live: Counter[tuple[str, str, str]] = Counter()
    for shipment in records.shipments:
        if shipment.status in LIVE_SHIPMENT or shipment.status == HELD:
            live[shipment.carrier_id, shipment.zone, shipment.ship_date] += shipment.parcels
    for day in records.capacities:
        ids = (day.carrier_id, day.zone, day.ship_date)
        booked = live.pop(ids, 0)
        if day.booked > day.parcels_per_day:
            yield Violation("G5", "capacity-oversold", ids, f"{day.booked} of {day.parcels_per_day} booked")
        if day.booked != booked:
            yield Violation("G5", "capacity-differs", ids, f"{day.booked} counted, {booked} held or live")
    for ids, booked in live.items():
        yield Violation("G5", "capacity-differs", ids, f"none counted, {booked} held or live")


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
