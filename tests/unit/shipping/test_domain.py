from datetime import date

import pytest

from libs.kernel.errors import Refused
from services.shipping.domain import Day, Service, choose, days_from

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
