import re
from dataclasses import replace
from datetime import date

import pytest

from libs.kernel.errors import Invalid, Refused
from services.shipping.domain import (
    Address,
    Day,
    Place,
    Service,
    Status,
    cancelled,
    checked_address,
    choose,
    confirmed,
    days_from,
    room,
    shipment_id_of,
)

TODAY = date(2026, 1, 31)
DAYS = days_from(TODAY, 3)
GULL = Service("gull", "DE", 2)
TIDE = Service("tide", "DE", 2)


def test_a_parcel_leaves_tomorrow_at_the_earliest() -> None:
    assert [date(2026, 2, 1), date(2026, 2, 2), date(2026, 2, 3)] == DAYS


def test_the_earliest_day_wins_then_the_first_carrier() -> None:
    assert choose("DE", 1, [TIDE, GULL], {}, DAYS).day == ("gull", "DE", DAYS[0])


def test_a_full_carrier_leaves_the_day_to_the_next_one() -> None:
    booked: dict[Day, int] = {("gull", "DE", DAYS[0]): 2}
    assert choose("DE", 1, [GULL, TIDE], booked, DAYS).day == ("tide", "DE", DAYS[0])


def test_a_full_day_moves_the_parcel_to_the_next_day() -> None:
    booked: dict[Day, int] = {("gull", "DE", DAYS[0]): 2}
    assert choose("DE", 1, [GULL], booked, DAYS).ship_date == DAYS[1]


def test_more_parcels_than_room_are_not_split() -> None:
    booked: dict[Day, int] = {("gull", "DE", DAYS[0]): 1}
    assert choose("DE", 2, [GULL], booked, DAYS).ship_date == DAYS[1]


def test_a_zone_nobody_serves_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        choose("AQ", 1, [GULL], {}, DAYS)
    assert (refusal.value.code, refusal.value.details) == ("zone-not-served", {"zone": "AQ"})


def test_when_every_day_is_full_the_answer_is_no() -> None:
    full: dict[Day, int] = {("gull", "DE", day): 2 for day in DAYS}
    with pytest.raises(Refused) as refusal:
        choose("DE", 1, [GULL], full, DAYS)
    assert refusal.value.code == "no-capacity"


def test_room_is_looked_for_on_one_day_only() -> None:
    booked: dict[Day, int] = {("gull", "DE", DAYS[0]): 2}
    assert room("DE", 1, [GULL], booked, DAYS[0]) is None
    assert room("DE", 1, [GULL], booked, DAYS[1]) == Place("gull", "DE", DAYS[1], 1)
    assert room("AQ", 1, [GULL], {}, DAYS[0]) is None


def test_a_shipment_is_known_by_its_transaction() -> None:
    assert re.fullmatch("shp_[0-9a-f]{32}", shipment_id_of("ord_1"))
    assert shipment_id_of("ord_1") == shipment_id_of("ord_1") != shipment_id_of("ord_2")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Status.HELD, Status.RELEASED),
        (Status.BOOKED, Status.BOOKED),
        (Status.RELEASED, Status.RELEASED),
        (Status.DISPATCHED, Status.DISPATCHED),
        (Status.CANCELLED, Status.CANCELLED),
    ],
)
def test_a_confirmation_makes_final_what_is_held_and_changes_nothing_else(before: Status, after: Status) -> None:
    assert confirmed(before) is after


def test_nothing_cannot_be_confirmed() -> None:
    with pytest.raises(Refused) as refusal:
        confirmed(None)
    assert refusal.value.code == "nothing-held"


@pytest.mark.parametrize("before", [None, Status.HELD, Status.BOOKED, Status.RELEASED, Status.CANCELLED])
def test_whatever_has_not_left_can_be_cancelled(before: Status | None) -> None:
    assert cancelled(before) is Status.CANCELLED


def test_what_has_left_cannot_be_cancelled() -> None:
    with pytest.raises(Refused) as refusal:
        cancelled(Status.DISPATCHED)
    assert refusal.value.code == "already-dispatched"


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"street": "x" * 201}, {"city": "a\0b"}, {"postcode": ""}, {"zone": "de"}, {"zone": "DEU"}]
)
def test_an_address_that_no_parcel_can_go_to_is_invalid(wrong: dict[str, str]) -> None:
    address = Address("Ada", "Quay 1", "Hamburg", "20457", "DE")
    assert checked_address(address) is address
    with pytest.raises(Invalid):
        checked_address(replace(address, **wrong))
