"""Which carrier takes a parcel on which day, and what becomes of a shipment."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from libs.kernel.errors import Invalid, Refused

PARCELS_MAX = 100
PARCELS_PER_DAY_MAX = 10**9
TEXT_LETTERS_MAX = 200


class Status(StrEnum):
    HELD = "held"
    BOOKED = "booked"
    RELEASED = "released"
    DISPATCHED = "dispatched"
    CANCELLED = "cancelled"


# What confirming and cancelling make of a shipment; what has left cannot be cancelled.
CONFIRMING: Mapping[Status, Status] = {
    Status.HELD: Status.RELEASED,
    Status.BOOKED: Status.BOOKED,
    Status.RELEASED: Status.RELEASED,
    Status.DISPATCHED: Status.DISPATCHED,
    Status.CANCELLED: Status.CANCELLED,
}
CANCELLING: Mapping[Status, Status] = {
    Status.HELD: Status.CANCELLED,
    Status.BOOKED: Status.CANCELLED,
    Status.RELEASED: Status.CANCELLED,
    Status.CANCELLED: Status.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Address:
    name: str
    street: str
    city: str
    postcode: str
    zone: str


@dataclass(frozen=True, slots=True)
class Service:
    """A carrier's promise for one zone."""

    carrier_id: str
    zone: str
    parcels_per_day: int


Day = tuple[str, str, date]
"""A carrier, a zone, a day: what capacity is counted for."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a parcel was booked."""

    carrier_id: str
    zone: str
    ship_date: date
    parcels: int

    @property
    def day(self) -> Day:
        return self.carrier_id, self.zone, self.ship_date


def checked_address(address: Address) -> Address:
    """Raises Invalid."""
    for name in ("name", "street", "city", "postcode"):
        value = getattr(address, name)
        if not 1 <= len(value) <= TEXT_LETTERS_MAX or "\0" in value:
            raise Invalid(f"an address's {name} has 1 to {TEXT_LETTERS_MAX} characters")
    if len(address.zone) != 2 or not (address.zone.isascii() and address.zone.isupper()):
        raise Invalid(f"an address's zone is an ISO 3166-1 alpha-2 country code, not {address.zone!r}")
    return address


def checked_parcels(parcels: int) -> int:
    """Raises Invalid."""
    if not 1 <= parcels <= PARCELS_MAX:
        raise Invalid(f"1 to {PARCELS_MAX} parcels at a time, not {parcels}")
    return parcels


def shipment_id_of(transaction_id: str) -> str:
    """A transaction has one shipment, and its name is known before anybody can see it."""
    return f"shp_{hashlib.sha256(transaction_id.encode()).hexdigest()[:32]}"


def days_from(today: date, days_ahead: int) -> list[date]:
    """The days a parcel may leave on: tomorrow first."""
    return [today + timedelta(days=number) for number in range(1, days_ahead + 1)]


def days_of(services: Iterable[Service], days: Iterable[date]) -> set[Day]:
    """What these services are counted for on these days."""
    days = list(days)
    return {(service.carrier_id, service.zone, day) for service in services for day in days}


def choose(
    zone: str, parcels: int, services: Sequence[Service], booked: Mapping[Day, int], days: Sequence[date]
) -> Place:
    """The earliest day with room, and of the carriers with room that day the first by id. Raises Refused."""
    if all(service.zone != zone for service in services):
        raise Refused(f"no carrier serves {zone}", code="zone-not-served", details={"zone": zone})
    for day in days:
        place = room(zone, parcels, services, booked, day)
        if place is not None:
            return place
    raise Refused(f"no carrier has room for {zone} until {days[-1]}", code="no-capacity", details={"zone": zone})


def room(zone: str, parcels: int, services: Sequence[Service], booked: Mapping[Day, int], day: date) -> Place | None:
    """The first carrier by id with room on this day; None when all are full."""
    for service in sorted((one for one in services if one.zone == zone), key=lambda one: one.carrier_id):
        if booked.get((service.carrier_id, zone, day), 0) + parcels <= service.parcels_per_day:
            return Place(service.carrier_id, zone, day, parcels)
    return None


def confirmed(status: Status | None) -> Status:
    """What confirming makes of a shipment; one that was cancelled meanwhile stays so. Raises Refused for none."""
    if status is None:
        raise Refused("there is nothing held or prepared to confirm", code="nothing-held")
    return CONFIRMING[status]


def cancelled(status: Status | None) -> Status:
    """What cancelling makes of a shipment; one that never was is as good as cancelled. Raises Refused."""
    if status is None:
        return Status.CANCELLED
    if status not in CANCELLING:
        raise Refused("the parcel has left", code="already-dispatched")
    return CANCELLING[status]
