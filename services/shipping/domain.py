"""Which carrier takes a parcel on which day."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from libs.kernel.errors import Invalid, Refused

PARCELS_MAX = 100
PARCELS_PER_DAY_MAX = 10**9


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


def checked_parcels(parcels: int) -> int:
    """Raises Invalid."""
    if not 1 <= parcels <= PARCELS_MAX:
        raise Invalid(f"1 to {PARCELS_MAX} parcels at a time, not {parcels}")
    return parcels


def days_from(today: date, days_ahead: int) -> list[date]:
    """The days a parcel may leave on: tomorrow first."""
    return [today + timedelta(days=number) for number in range(1, days_ahead + 1)]


def choose(
    zone: str, parcels: int, services: Sequence[Service], booked: Mapping[Day, int], days: Sequence[date]
) -> Place:
    """The earliest day with room, and of the carriers with room that day the first by id. Raises Refused."""
    serving = sorted((one for one in services if one.zone == zone), key=lambda one: one.carrier_id)
    if not serving:
        raise Refused(f"no carrier serves {zone}", code="zone-not-served", details={"zone": zone})
    for day in days:
        for service in serving:
            if booked.get((service.carrier_id, zone, day), 0) + parcels <= service.parcels_per_day:
                return Place(service.carrier_id, zone, day, parcels)
    raise Refused(f"no carrier has room for {zone} until {days[-1]}", code="no-capacity", details={"zone": zone})
