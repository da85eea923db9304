"""Places that are held: nobody else has them, nobody sees them as booked, and who held too long asks."""

import asyncio

import pytest

from libs.coordination.outcomes import Outcome
from libs.kernel.errors import Conflict
from services.shipping.domain import Service, shipment_id_of
from services.shipping.handlers import Done
from tests.integration.shipping.office import (
    PLACES,
    Coordinator,
    Office,
    book,
    cancel,
    codes,
    confirm,
    dispatch,
    hold,
)


async def test_a_held_place_is_taken_and_its_parcel_may_not_leave(office: Office) -> None:
    assert await office.told(hold("t1")) == ["done"]
    assert (await office.status("t1"), await office.booked()) == ("held", 1)
    (early,) = await office.execute(dispatch("d1", shipment_id_of("t1")))
    assert isinstance(early, Conflict)


async def test_a_hold_lasts_as_long_as_was_asked_by_the_clock_of_the_database(office: Office) -> None:
    await office.execute(hold("t1", lease_ms=90_000), book("t2"))
    leases = await office.rows(
        "SELECT extract(epoch FROM lease_until - (SELECT created_at FROM barrier WHERE transaction_id = 't1'))::int"
        " FROM shipments ORDER BY transaction_id"
    )
    assert [row[0] for row in leases] == [90, None]


async def test_who_holds_the_last_place_leaves_none_to_the_next(office: Office) -> None:
    assert await office.told(*(hold(f"t{number}") for number in range(PLACES))) == ["done"] * PLACES
    assert await office.told(hold("t8"), book("t9")) == ["no-capacity"] * 2
    assert await office.told(cancel("t1")) == ["done"]
    assert await office.told(hold("t10")) == ["done"]
    assert await office.booked() == PLACES


async def test_a_confirmed_hold_may_leave_and_is_confirmed_once(office: Office) -> None:
    held = await office.execute(hold("t1"))
    assert await office.execute(confirm("t1")) == held
    assert await office.execute(confirm("t1")) == held
    assert (await office.status("t1"), await office.booked()) == ("released", 1)
    assert await office.told(dispatch("d1", shipment_id_of("t1"))) == ["done"]
    assert await office.told(cancel("t1")) == ["already-dispatched"]


async def test_a_hold_that_is_let_go_gives_its_place_back_once(office: Office) -> None:
    held = await office.execute(hold("t1"))
    assert await office.execute(cancel("t1")) == held
    assert await office.execute(cancel("t1")) == held
    assert (await office.status("t1"), await office.booked()) == ("cancelled", 0)


async def test_a_hold_that_comes_after_its_undo_holds_nothing(office: Office) -> None:
    assert await office.execute(cancel("t1")) == [Done()]
    assert await office.told(hold("t1")) == ["undone-before-done"]
    assert await office.booked() == 0


async def test_a_confirmed_hold_can_still_be_cancelled_with_its_order(office: Office) -> None:
    held = await office.execute(hold("t1"))
    await office.execute(confirm("t1"))
    assert await office.execute(cancel("t1")) == held
    assert (await office.status("t1"), await office.booked()) == ("cancelled", 0)


async def test_a_cancellation_that_overtakes_the_confirmation_leaves_nothing_to_confirm(office: Office) -> None:
    await office.execute(hold("t1"))
    await office.execute(cancel("t1"))
    assert await office.execute(confirm("t1")) == [Done()]
    assert (await office.status("t1"), await office.booked()) == ("cancelled", 0)


async def test_what_was_never_held_cannot_be_confirmed(office: Office) -> None:
    assert await office.told(book("t2", zone="AQ")) == ["zone-not-served"]
    assert await office.told(confirm("t1"), confirm("t2")) == ["nothing-held"] * 2


async def test_what_was_booked_at_once_needs_no_confirmation(office: Office) -> None:
    booked = await office.execute(book("t1"))
    assert await office.execute(confirm("t1")) == booked
    assert await office.status("t1") == "booked"


@pytest.mark.parametrize("confirmed_first", [True, False])
async def test_the_news_of_the_order_and_the_confirmation_release_once_in_either_order(
    office: Office, confirmed_first: bool
) -> None:
    held = await office.execute(hold("t1"))
    if confirmed_first:
        assert await office.execute(confirm("t1")) == held
    await office.confirm_orders("t1")
    assert await office.status("t1") == "released"
    assert await office.execute(confirm("t1")) == held
    assert await office.told(dispatch("d1", shipment_id_of("t1"))) == ["done"]
    await office.confirm_orders("t1")
    assert await office.status("t1") == "dispatched"


async def test_a_parcel_that_left_before_its_confirmation_came_is_confirmed(office: Office) -> None:
    held = await office.execute(hold("t1"))
    await office.confirm_orders("t1")
    await office.execute(dispatch("d1", shipment_id_of("t1")))
    assert await office.execute(confirm("t1")) == held
    assert await office.status("t1") == "dispatched"


async def test_a_batch_ends_each_hold_in_its_own_way(office: Office) -> None:
    await office.execute(*(hold(f"t{number}") for number in range(3)), book("t3"))
    told = await office.told(confirm("t0"), cancel("t1"), hold("t9"), confirm("t8"), cancel("t3"))
    assert told == ["done", "done", "done", "nothing-held", "done"]
    statuses = [await office.status(f"t{number}") for number in range(4)]
    assert statuses == ["released", "cancelled", "held", "cancelled"]
    assert await office.booked() == 3


async def test_confirmations_and_the_news_of_their_orders_do_not_wait_in_a_circle(office: Office) -> None:
    await office.desk.create_carrier("k", "tern", "Tern", [Service("tern", "DE", 40)])
    names = [f"t{number:02}" for number in range(40)]
    await office.execute(*(hold(name) for name in names))
    told, _ = await asyncio.gather(
        office.told(*(confirm(name) for name in reversed(names))), office.confirm_orders(*names)
    )
    assert told == ["done"] * 40
    assert {await office.status(name) for name in names} == {"released"}


# Who held too long asks.


async def test_nobody_is_asked_about_a_hold_whose_lease_lasts(office: Office) -> None:
    coordinator = Coordinator(Outcome.CANCEL)
    await office.execute(hold("t1"), book("t2"))
    assert (await office.inquire(coordinator), coordinator.asked) == (0, [])


@pytest.mark.parametrize(("outcome", "status"), [(Outcome.CONFIRM, "released"), (Outcome.CANCEL, "cancelled")])
async def test_an_overdue_hold_asks_and_is_settled_once(office: Office, outcome: Outcome, status: str) -> None:
    coordinator = Coordinator(outcome)
    held = await office.execute(hold("t1", lease_ms=1))
    await office.until_overdue()
    assert await office.inquire(coordinator) == 1
    assert await office.status("t1") == status
    assert (await office.inquire(coordinator), coordinator.asked) == (0, ["t1"])
    # The coordinator's own command comes after all.
    late = confirm("t1") if outcome is Outcome.CONFIRM else cancel("t1")
    assert await office.execute(late) == held
    assert await office.booked() == (1 if outcome is Outcome.CONFIRM else 0)


async def test_an_overdue_hold_stays_until_somebody_decides(office: Office) -> None:
    await office.execute(hold("t1", lease_ms=1))
    await office.until_overdue()
    assert await office.inquire(Coordinator(Outcome.UNDECIDED)) == 0
    assert (await office.status("t1"), await office.booked()) == ("held", 1)


async def test_a_hold_that_was_decided_against_does_not_come_back(office: Office) -> None:
    await office.execute(hold("t1", lease_ms=1))
    await office.until_overdue()
    await office.inquire(Coordinator(Outcome.CANCEL))
    assert codes(await office.execute(hold("t1"))) == ["done"]  # a repeat is answered as it was, and holds nothing
    assert (await office.status("t1"), await office.booked()) == ("cancelled", 0)
