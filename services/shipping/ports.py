"""What shipping's handlers and readers need from the world, in their own words."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from libs.tcc.barrier import Barrier
from libs.tcc.trail import Trail
from services.shipping.domain import Day, Place, Service, Status


@dataclass(frozen=True, slots=True)
class Shipment:
    """`address` is JSON."""

    shipment_id: str
    transaction_id: str
    place: Place
    address: str
    status: Status
    label: str
    booked_at: datetime


@dataclass(frozen=True, slots=True)
class NewShipment:
    """One that is held asks what became of its transaction after `lease_ms`; every other has none."""

    shipment: Shipment
    lease_ms: int | None = None


class Shipping(Protocol):
    async def services(self, zones: Collection[str]) -> Sequence[Service]:
        """Every carrier's promise for these zones."""
        ...

    async def lock_days(self, days: Collection[Day]) -> Mapping[Day, int]:
        """What is booked on these days, held until the transaction ends; in order, so nobody waits in a circle."""
        ...

    async def count(self, parcels: Mapping[Day, int]) -> None:
        """Adds parcels to (or, below zero, takes them off) the counters of days that were locked."""
        ...

    async def add_shipments(self, new: Sequence[NewShipment]) -> None: ...

    async def lock_shipments(self, transaction_ids: Collection[str]) -> Mapping[str, Shipment]:
        """The shipments of those of these transactions that have one, held until the transaction ends; in order."""
        ...

    async def save_statuses(self, shipments: Sequence[Shipment]) -> None:
        """Keeps the status of shipments that were locked; none of them is held any more."""
        ...

    async def lock_shipment(self, shipment_id: str) -> Shipment | None: ...

    async def dispatch(self, shipment: Shipment, at: datetime, traceparent: str) -> None:
        """Marks it as gone and announces it, in the trace of who asked."""
        ...

    async def create_carrier(self, carrier_id: str, name: str, services: Sequence[Service]) -> None:
        """Adds a carrier, or changes what it promises."""
        ...


class Unit(Protocol):
    """One transaction: everything done through it commits together or not at all."""

    @property
    def shipping(self) -> Shipping: ...
    @property
    def barrier(self) -> Barrier: ...


class Units(Protocol):
    def open(self) -> AbstractAsyncContextManager[Unit]:
        """Begins a transaction; leaving without an error commits it."""
        ...


class Queries(Protocol):
    async def shipment(self, shipment_id: str) -> Shipment:
        """Raises NotFound."""
        ...

    async def carriers(self, after: str, limit: int) -> tuple[list[tuple[str, str, list[Service]]], str]:
        """Carriers (id, name, what they promise) by id, and the key of the next page; "" at the end."""
        ...

    async def trail(self, transaction_id: str) -> Trail:
        """What shipping did for a transaction; nothing for one it does not know."""
        ...
