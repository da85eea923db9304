"""What the audit compares: plain copies of the rows that five independent databases keep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """An order as its events tell it. `lines` maps sku to quantity; `coordination` is its style."""

    order_id: str
    status: str
    version: int
    total_minor: int
    currency: str
    lines: Mapping[str, int]
    coordination: str


@dataclass(frozen=True, slots=True)
class ViewRecord:
    """The same order as the read model tells it."""

    order_id: str
    status: str
    version: int
    total_minor: int


@dataclass(frozen=True, slots=True)
class SagaRecord:
    """`status` is running, parked or ended."""

    saga_id: str
    status: str
    parked_reason: str


@dataclass(frozen=True, slots=True)
class ChoreographyRecord:
    """What the order service noted of a choreographed checkout: `status` is running, withdrawn, parked or ended.

    `overdue_seconds` is how long ago its deadline passed, negative before.
    """

    order_id: str
    status: str
    parked_reason: str
    overdue_seconds: float


@dataclass(frozen=True, slots=True)
class PreparedRecord:
    """A transaction that one of the databases keeps prepared, with the order that its name says it is of, or ""."""

    service: str
    gid: str
    transaction_id: str
    age_seconds: float


@dataclass(frozen=True, slots=True)
class ProductRecord:
    sku: str
    on_hand: int
    reserved: int
    sold: int
    received: int


@dataclass(frozen=True, slots=True)
class DeductionRecord:
    """`status` is held, deducted or restocked."""

    transaction_id: str
    status: str
    lines: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PaymentRecord:
    payment_id: str
    transaction_id: str
    account_id: str
    amount_minor: int
    currency: str
    status: str


@dataclass(frozen=True, slots=True)
class EntryRecord:
    """One ledger entry: the sum of its postings (zero, or the books are wrong) per currency."""

    entry_id: str
    currency: str
    sum_minor: int


@dataclass(frozen=True, slots=True)
class BalanceRecord:
    """What the ledger's postings say one payment moved out of the customer's account, net of refunds."""

    payment_id: str
    charged_minor: int


@dataclass(frozen=True, slots=True)
class CapacityRecord:
    carrier_id: str
    zone: str
    ship_date: str
    booked: int
    parcels_per_day: int


@dataclass(frozen=True, slots=True)
class ShipmentRecord:
    shipment_id: str
    transaction_id: str
    carrier_id: str
    zone: str
    ship_date: str
    status: str
    parcels: int


@dataclass(frozen=True, slots=True)
class ChargeRecord:
    """A charge as the card processor remembers it: `status` is authorised, captured or voided.

    Only what was captured is money: an authorisation is a promise, and a voided one is nothing.
    """

    charge_id: str
    reference: str
    amount_minor: int
    currency: str
    refunded_minor: int
    status: str

    @property
    def taken_minor(self) -> int:
        return self.amount_minor if self.status == "captured" else 0

    @property
    def kept_minor(self) -> int:
        return self.taken_minor - self.refunded_minor


@dataclass(frozen=True, slots=True)
class Records:
    """Everything, read from each database in one transaction of its own."""

    orders: Sequence[OrderRecord] = field(default_factory=tuple)
    views: Sequence[ViewRecord] = field(default_factory=tuple)
    sagas: Sequence[SagaRecord] = field(default_factory=tuple)
    choreographies: Sequence[ChoreographyRecord] = field(default_factory=tuple)
    products: Sequence[ProductRecord] = field(default_factory=tuple)
    deductions: Sequence[DeductionRecord] = field(default_factory=tuple)
    payments: Sequence[PaymentRecord] = field(default_factory=tuple)
    entries: Sequence[EntryRecord] = field(default_factory=tuple)
    balances: Sequence[BalanceRecord] = field(default_factory=tuple)
    capacities: Sequence[CapacityRecord] = field(default_factory=tuple)
    shipments: Sequence[ShipmentRecord] = field(default_factory=tuple)
    charges: Sequence[ChargeRecord] = field(default_factory=tuple)
    prepared: Sequence[PreparedRecord] = field(default_factory=tuple)
