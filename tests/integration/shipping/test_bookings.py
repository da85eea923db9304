"""Shipping's handlers on a real database: a place is given once, given back once, and never given twice."""

import asyncio

from libs.kernel.errors import Conflict
from services.shipping.domain import Service, shipment_id_of
from services.shipping.handlers import Done
from tests.integration.shipping.office import DAYS_AHEAD, PER_DAY, PLACES, Office, book, cancel, codes, dispatch


async def test_a_repeated_booking_books_once_and_answers_the_same(office: Office) -> None:
    assert await office.execute(book("t1")) == await office.execute(book("t1"))
    assert await office.booked() == 1


async def test_a_batch_fills_the_days_in_order_and_refuses_only_who_comes_too_late(office: Office) -> None:
    outcomes = await office.execute(*(book(f"t{number}") for number in range(5)))
    assert codes(outcomes) == ["done"] * 4 + ["no-capacity"]
    days = [outcome.ship_date for outcome in outcomes if isinstance(outcome, Done)]
    assert days == ["2026-02-01", "2026-02-01", "2026-02-02", "2026-02-02"]
    assert await office.booked() == DAYS_AHEAD * PER_DAY


async def test_an_unserved_zone_is_refused_without_harm_to_its_neighbours(office: Office) -> None:
    assert codes(await office.execute(book("t1"), book("t2", zone="AQ"))) == ["done", "zone-not-served"]


async def test_a_cancelled_booking_gives_its_place_back_once(office: Office) -> None:
    await office.execute(book("t1"))
    assert await office.execute(cancel("t1")) == await office.execute(cancel("t1"))
    assert await office.booked() == 0


async def test_a_place_given_back_is_taken_in_the_same_batch(office: Office) -> None:
    await office.execute(*(book(f"t{number}") for number in range(PLACES)))
    assert await office.told(book("t9"), cancel("t2")) == ["done", "done"]
    assert await office.booked() == PLACES


async def test_an_undo_that_comes_first_wins(office: Office) -> None:
    assert await office.execute(cancel("t1")) == [Done()]
    assert codes(await office.execute(book("t1"))) == ["undone-before-done"]
    assert await office.booked() == 0


async def test_a_refused_booking_has_nothing_to_cancel(office: Office) -> None:
    assert await office.told(book("t1", zone="AQ")) == ["zone-not-served"]
    assert await office.execute(cancel("t1")) == [Done()]


async def test_a_parcel_leaves_only_after_its_order_is_confirmed_and_then_stays_gone(office: Office) -> None:
    await office.execute(book("t1"))
    (early,) = await office.execute(dispatch("d1", shipment_id_of("t1")))
    assert isinstance(early, Conflict)
    await office.confirm_orders("t1")
    assert codes(await office.execute(dispatch("d2", shipment_id_of("t1")))) == ["done"]
    assert codes(await office.execute(cancel("t1"))) == ["already-dispatched"]
    assert await office.booked() == 1


async def test_a_confirmation_does_not_wake_a_cancelled_booking(office: Office) -> None:
    await office.execute(book("t1"))
    await office.execute(cancel("t1"))
    await office.confirm_orders("t1")
    (outcome,) = await office.execute(dispatch("d1", shipment_id_of("t1")))
    assert isinstance(outcome, Conflict)


async def test_batches_that_give_back_and_take_at_once_do_not_wait_in_a_circle(office: Office) -> None:
    carriers = ("gull", "tern")
    async with office.units.open() as unit:
        for carrier_id in carriers:
            zones = [Service(carrier_id, zone, 10) for zone in ("DE", "FR")]
            await unit.shipping.create_carrier(carrier_id, carrier_id, zones)
    first = [f"a{number}" for number in range(20)]
    second = [f"b{number}" for number in range(20)]
    await office.execute(*(book(one, zone) for one, zone in zip(first, ("DE", "FR") * 10, strict=True)))
    await office.execute(*(book(one, zone) for one, zone in zip(second, ("FR", "DE") * 10, strict=True)))
    left = [*(cancel(one) for one in first), *(book(f"c{number}", "FR") for number in range(5))]
    right = [*(cancel(one) for one in reversed(second)), *(book(f"d{number}") for number in range(5))]
    told = await asyncio.gather(office.told(*left), office.told(*right))
    assert list(told) == [["done"] * 25] * 2
    assert await office.booked() == 10
