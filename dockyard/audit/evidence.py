"""What rules look at and what they find: each order with its leftovers in the other services, and a broken promise."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dockyard.audit.records import (
    ChargeRecord,
    ChoreographyRecord,
    DeductionRecord,
    OrderRecord,
    PaymentRecord,
    Records,
    SagaRecord,
    ShipmentRecord,
)

T = TypeVar("T")

KEPT = frozenset({"confirmed", "shipped"})
ENDED_EMPTY = frozenset({"rejected", "cancelled"})
HELD = "held"
AUTHORISED, VOIDED = "authorised", "voided"
LIVE_SHIPMENT = frozenset({"booked", "released", "dispatched"})
# Between these a payment may rightly differ from the processor: the answer is still on its way.
MOVING_PAYMENT = frozenset({"authorising", "charging", "capturing", "voiding", "refunding"})
CHOREOGRAPHED, NAIVE = "choreographed", "naive"
UNFINISHED = frozenset({"running", "withdrawn"})
ORDER_PREFIX = "ord_"


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """A broken promise: which guarantee, about what (ids), what was found, and how that order was coordinated.

    `coordination` is "" for what is about no order in particular, as a product whose stock does not add up.
    """

    guarantee: str
    rule: str
    ids: tuple[str, ...]
    message: str
    coordination: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What each order's transaction left behind in the other services, and who works on it."""

    charges: Mapping[str, Sequence[ChargeRecord]]
    payments: Mapping[str, Sequence[PaymentRecord]]
    deductions: Mapping[str, Sequence[DeductionRecord]]
    shipments: Mapping[str, Sequence[ShipmentRecord]]
    sagas: Mapping[str, SagaRecord]
    choreographies: Mapping[str, ChoreographyRecord]

    def worker(self, order: OrderRecord) -> SagaRecord | ChoreographyRecord | None:
        """Whose work it is to end the order."""
        if order.coordination == CHOREOGRAPHED:
            return self.choreographies.get(order.order_id)
        return self.sagas.get(order.order_id)

    def is_abandoned(self, order: OrderRecord) -> bool:
        """Pending, and nobody will ever end it: neither at work on it nor parked until an operator decides."""
        worker = self.worker(order)
        return order.status == "pending" and (worker is None or worker.status == "ended")


def gather(records: Records) -> Evidence:
    transactions = {payment.payment_id: payment.transaction_id for payment in records.payments}
    return Evidence(
        charges=_by(records.charges, lambda charge: transactions.get(charge.reference, "")),
        payments=_by(records.payments, lambda payment: payment.transaction_id),
        deductions=_by(records.deductions, lambda deduction: deduction.transaction_id),
        shipments=_by(records.shipments, lambda shipment: shipment.transaction_id),
        sagas={saga.saga_id: saga for saga in records.sagas},
        choreographies={one.order_id: one for one in records.choreographies},
    )


def _by(items: Iterable[T], key: Callable[[T], str]) -> Mapping[str, Sequence[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def styles(records: Records) -> Mapping[str, str]:
    """How the order was coordinated that an id belongs to: an order's, a payment's, a ledger entry's, a charge's."""
    found = {order.order_id: order.coordination for order in records.orders}
    for payment in records.payments:
        found[payment.payment_id] = found.get(payment.transaction_id, "")
    for charge in records.charges:
        found[charge.charge_id] = found.get(charge.reference, "")
    for entry in records.entries:
        found[entry.entry_id] = found.get(entry.entry_id.partition("/")[0], "")
    return found
