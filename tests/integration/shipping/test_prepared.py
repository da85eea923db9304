"""Bookings that are prepared: nobody sees them before their commit, and an outcome comes once."""

import asyncio
from datetime import date

import pytest

from libs.coordination.outcomes import Outcome
from libs.kernel.errors import Unavailable
from libs.tcc.barrier import Manner
from services.shipping.domain import Service, shipment_id_of
from services.shipping.handlers import Done
from tests.integration.shipping.office import (
    CONNECTIONS,
    PLACES,
    Coordinator,
    Office,
    book,
    cancel,
    code,
    confirm,
    dispatch,
    prepare,
)

PREPARE = Manner.PREPARE
T1 = shipment_id_of("t1")


async def test_a_prepared_booking_is_seen_once_it_is_committed_and_may_leave(office: Office) -> None:
    answered = await office.prepare(prepare("t1"))
    assert isinstance(answered, Done)
    assert (answered.shipment_id, answered.ship_date) == (T1, "2026-02-01")
    assert (await office.status("t1"), await office.booked()) == ("none", 0)
    assert await office.desk.confirm("t1", PREPARE) == answered
    assert (await office.status("t1"), await office.booked()) == ("released", 1)
    assert await office.desk.confirm("t1", PREPARE) == answered
    assert await office.told(dispatch("d1", T1)) == ["done"]


async def test_a_prepared_booking_that_is_rolled_back_never_was(office: Office) -> None:
    await office.prepare(prepare("t1"))
    assert await office.desk.cancel("t1", PREPARE) == Done()
    assert await office.desk.cancel("t1", PREPARE) == Done()
    assert (await office.status("t1"), await office.booked()) == ("none", 0)


async def test_a_repeated_prepare_is_answered_with_the_same_shipment(office: Office) -> None:
    await office.prepare(prepare("t1"))
    assert await office.prepare(prepare("t1")) == Done(T1)
    done = await office.desk.confirm("t1", PREPARE)
    assert await office.prepare(prepare("t1")) == done
    assert (await office.booked(), await office.prepared.overdue(0.0, 10)) == (1, [])


async def test_a_prepare_that_comes_after_its_undo_prepares_nothing(office: Office) -> None:
    assert await office.desk.cancel("t1", PREPARE) == Done()
    assert code(await office.prepare(prepare("t1"))) == "undone-before-done"
    assert (await office.booked(), await office.prepared.overdue(0.0, 10)) == (0, [])


async def test_a_refusal_is_final_at_once_and_locks_nothing(office: Office) -> None:
    assert code(await office.prepare(prepare("t1", zone="AQ"))) == "zone-not-served"
    assert code(await office.prepare(prepare("t1", zone="AQ"))) == "zone-not-served"
    assert await office.prepared.overdue(0.0, 10) == []
    assert await office.desk.cancel("t1", PREPARE) == Done()


async def test_when_every_place_is_taken_a_prepare_is_refused(office: Office) -> None:
    await office.execute(*(book(f"b{number}") for number in range(PLACES)))
    assert code(await office.prepare(prepare("t1"))) == "no-capacity"
    assert await office.booked() == PLACES


async def test_what_was_never_prepared_cannot_be_committed(office: Office) -> None:
    assert await office.told(confirm("t1", PREPARE)) == ["nothing-held"]


async def test_a_committed_booking_can_still_be_cancelled_with_its_order(office: Office) -> None:
    await office.prepare(prepare("t1"))
    await office.desk.confirm("t1", PREPARE)
    assert await office.told(cancel("t1")) == ["done"]
    assert (await office.status("t1"), await office.booked()) == ("cancelled", 0)


async def test_a_cancellation_between_commit_and_confirmation_leaves_nothing_to_confirm(office: Office) -> None:
    await office.prepare(prepare("t1"))
    await office.prepared.commit("t1")
    await office.told(cancel("t1"))
    assert await office.desk.confirm("t1", PREPARE) == Done()
    assert await office.booked() == 0


async def test_a_prepared_booking_locks_no_day_behind_the_one_it_needs(office: Office) -> None:
    await office.execute(book("b1"))
    await office.prepare(prepare("t1"))
    locked = []
    free = "SELECT FROM capacity_days WHERE ship_date = $1 FOR UPDATE SKIP LOCKED"
    for day in (date(2026, 2, 1), date(2026, 2, 2)):
        locked.append(not await office.rows(free, day))
    assert locked == [True, False]


async def test_who_needs_the_day_of_a_prepared_booking_waits_for_its_outcome(office: Office) -> None:
    await office.execute(book("b1"))
    await office.prepare(prepare("t1"))
    async with asyncio.TaskGroup() as group:
        second = group.create_task(office.preparations.prepare(prepare("t2")))
        await office.until_somebody_waits()
        await office.desk.confirm("t1", PREPARE)
    assert second.result().ship_date == "2026-02-02"


async def test_who_waits_too_long_is_told_that_nothing_happened(office: Office) -> None:
    await office.prepare(prepare("t1"))
    told = await office.prepare(prepare("t2"))
    assert isinstance(told, Unavailable)
    await office.desk.cancel("t1", PREPARE)
    assert isinstance(await office.prepare(prepare("t2")), Done)


async def test_prepares_that_wait_leave_connections_to_who_could_end_them(office: Office) -> None:
    await office.prepare(prepare("t0"))
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(office.prepare(prepare(f"t{number}"))) for number in range(1, CONNECTIONS + 2)]
        await office.until_somebody_waits()
        async with asyncio.timeout(1):
            await office.desk.confirm("t0", PREPARE)
        for one in waiting:
            one.cancel()
    assert await office.status("t0") == "released"


async def test_prepares_of_two_zones_do_not_meet(office: Office) -> None:
    await office.desk.create_carrier("k", "tern", "Tern", [Service("tern", "FR", 1)])
    prepared = [await office.prepare(prepare("t1")), await office.prepare(prepare("t2", zone="FR"))]
    assert all(isinstance(one, Done) for one in prepared)


@pytest.mark.parametrize(("outcome", "status"), [(Outcome.CONFIRM, "released"), (Outcome.CANCEL, "none")])
async def test_what_is_prepared_for_too_long_asks_and_is_settled_once(
    office: Office, outcome: Outcome, status: str
) -> None:
    coordinator = Coordinator(outcome)
    await office.prepare(prepare("t1"))
    assert (await office.inquire(coordinator, patience_seconds=60.0), coordinator.asked) == (0, [])
    assert await office.inquire(coordinator) == 1
    assert (await office.status("t1"), await office.booked()) == (status, int(outcome is Outcome.CONFIRM))
    # The coordinator's own command comes after all.
    if outcome is Outcome.CONFIRM:
        assert (await office.desk.confirm("t1", PREPARE)).shipment_id == T1
    else:
        assert await office.desk.cancel("t1", PREPARE) == Done()
    assert (await office.inquire(coordinator), coordinator.asked) == (0, ["t1"])
