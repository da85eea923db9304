"""Stock that is held: nobody else has it, it is not sold yet, and who held too long asks."""

import asyncio

import pytest

from libs.coordination.outcomes import Outcome
from services.inventory.handlers import Done
from tests.integration.inventory.storeroom import (
    Coordinator,
    Store,
    codes,
    confirm,
    create,
    deduct,
    done,
    hold,
    restock,
)


async def test_held_stock_is_neither_on_hand_nor_sold(store: Store) -> None:
    assert await store.execute(hold("t1", lamp=2)) == [done(lamp=2)]
    assert (await store.status("t1"), await store.counted("lamp")) == ("held", (8, 2, 0))


async def test_a_hold_lasts_as_long_as_was_asked_by_the_clock_of_the_database(store: Store) -> None:
    await store.execute(hold("t1", lease_ms=90_000, lamp=1), deduct("t2", lamp=1))
    leases = await store.rows(
        "SELECT extract(epoch FROM lease_until - deducted_at)::int FROM deductions ORDER BY transaction_id"
    )
    assert [row[0] for row in leases] == [90, None]


async def test_who_holds_the_last_piece_leaves_none_to_the_next(store: Store) -> None:
    assert await store.told(hold("t1", rope=1), hold("t2", rope=1), deduct("t3", rope=1)) == [
        "done",
        "out-of-stock",
        "out-of-stock",
    ]
    assert await store.told(restock("t1"), hold("t4", rope=1)) == ["done", "done"]
    assert await store.counted("rope") == (0, 1, 0)


async def test_all_lines_are_held_or_none(store: Store) -> None:
    assert await store.told(hold("t1", lamp=2, rope=2), hold("t2", unicorn=1)) == ["out-of-stock", "unknown-product"]
    assert await store.counted("lamp") == (10, 0, 0)
    assert await store.execute(restock("t1")) == [Done()]


async def test_a_confirmed_hold_is_sold_once(store: Store) -> None:
    await store.execute(hold("t1", lamp=2, rope=1))
    for _ in range(2):
        assert await store.execute(confirm("t1")) == [done(lamp=2, rope=1)]
        assert (await store.status("t1"), await store.counted("lamp")) == ("deducted", (8, 0, 2))
    assert await store.counted("rope") == (0, 0, 1)


async def test_a_hold_that_is_let_go_is_on_hand_again_once(store: Store) -> None:
    await store.execute(hold("t1", lamp=2))
    for _ in range(2):
        assert await store.execute(restock("t1")) == [done(lamp=2)]
        assert (await store.status("t1"), await store.counted("lamp")) == ("restocked", (10, 0, 0))


async def test_a_repeated_hold_holds_once(store: Store) -> None:
    assert await store.execute(hold("t1", lamp=2)) == await store.execute(hold("t1", lamp=2))
    assert await store.counted("lamp") == (8, 2, 0)


async def test_a_hold_that_comes_after_its_undo_holds_nothing(store: Store) -> None:
    assert await store.execute(restock("t1")) == [Done()]
    assert await store.told(hold("t1", lamp=2)) == ["undone-before-done"]
    assert await store.told(confirm("t1")) == ["nothing-held"]
    assert await store.counted("lamp") == (10, 0, 0)


async def test_a_confirmation_that_comes_after_the_undo_sells_nothing(store: Store) -> None:
    await store.execute(hold("t1", lamp=2))
    await store.execute(restock("t1"))
    for _ in range(2):
        assert await store.execute(confirm("t1")) == [Done()]
    assert (await store.status("t1"), await store.counted("lamp")) == ("restocked", (10, 0, 0))


async def test_a_confirmed_hold_can_still_be_put_back_with_its_order(store: Store) -> None:
    await store.execute(hold("t1", lamp=2))
    await store.execute(confirm("t1"))
    assert await store.execute(restock("t1")) == [done(lamp=2)]
    assert await store.execute(confirm("t1")) == [done(lamp=2)]  # a repeat is answered as it was, and sells nothing
    assert (await store.status("t1"), await store.counted("lamp")) == ("restocked", (10, 0, 0))


async def test_what_was_never_held_cannot_be_confirmed(store: Store) -> None:
    assert await store.told(hold("t2", rope=2)) == ["out-of-stock"]
    assert await store.told(confirm("t1"), confirm("t2")) == ["nothing-held"] * 2


async def test_a_confirmation_that_comes_before_its_hold_stays_refused(store: Store) -> None:
    assert await store.told(confirm("t1")) == ["nothing-held"]
    assert await store.told(hold("t1", lamp=1)) == ["done"]
    assert await store.told(confirm("t1")) == ["nothing-held"]
    assert await store.counted("lamp") == (9, 1, 0)


async def test_what_was_deducted_at_once_needs_no_confirmation(store: Store) -> None:
    await store.execute(deduct("t1", lamp=2))
    assert await store.execute(confirm("t1")) == [done(lamp=2)]
    assert (await store.status("t1"), await store.counted("lamp")) == ("deducted", (8, 0, 2))


async def test_a_batch_ends_each_hold_in_its_own_way(store: Store) -> None:
    await store.execute(hold("t0", lamp=1), hold("t1", lamp=2, rope=1), hold("t2", lamp=3), deduct("t3", lamp=4))
    told = await store.told(
        confirm("t0"), restock("t1"), hold("t9", rope=1), confirm("t8"), restock("t3"), deduct("t7", lamp=6)
    )
    assert told == ["done", "done", "done", "nothing-held", "done", "done"]
    statuses = [await store.status(one) for one in ("t0", "t1", "t2", "t3", "t9", "t7")]
    assert statuses == ["deducted", "restocked", "held", "restocked", "held", "deducted"]
    assert (await store.counted("lamp"), await store.counted("rope")) == ((0, 3, 7), (0, 1, 0))


async def test_within_a_batch_only_what_was_put_back_before_can_be_taken(store: Store) -> None:
    await store.execute(hold("t1", rope=1))
    assert await store.told(hold("t2", rope=1), restock("t1"), hold("t3", rope=1)) == ["out-of-stock", "done", "done"]


async def test_a_new_product_can_be_held_in_the_batch_that_creates_it(store: Store) -> None:
    assert await store.told(create("k", bolt=2), hold("t1", bolt=2)) == ["done", "done"]
    assert await store.counted("bolt") == (0, 2, 0)


async def test_batches_that_meet_in_other_orders_do_not_wait_in_a_circle(store: Store) -> None:
    await store.execute(create("k", bolt=100, anvil=100))
    first, second = [f"a{number:02}" for number in range(20)], [f"b{number:02}" for number in range(20)]
    await store.execute(*(hold(name, bolt=1, anvil=1) for name in first + second))
    told = await asyncio.gather(
        store.told(*(confirm(name) for name in first), *(hold(f"c{number}", anvil=1, bolt=1) for number in range(5))),
        store.told(
            *(restock(name) for name in reversed(second)), *(deduct(f"d{number}", bolt=1) for number in range(5))
        ),
    )
    assert list(told) == [["done"] * 25] * 2
    assert (await store.counted("bolt"), await store.counted("anvil")) == ((70, 5, 25), (75, 5, 20))


async def test_of_a_confirmation_and_an_undo_at_once_one_finds_the_others_work(store: Store) -> None:
    names = [f"t{number}" for number in range(10)]
    await store.execute(*(hold(name, lamp=1) for name in names))
    await asyncio.gather(
        store.told(*(confirm(name) for name in names)), store.told(*(restock(name) for name in reversed(names)))
    )
    assert {await store.status(name) for name in names} == {"restocked"}
    assert await store.counted("lamp") == (10, 0, 0)


# Who held too long asks.


async def test_nobody_is_asked_about_a_hold_whose_lease_lasts(store: Store) -> None:
    coordinator = Coordinator(Outcome.CANCEL)
    await store.execute(hold("t1", lamp=1), deduct("t2", lamp=1))
    assert (await store.inquire(coordinator), coordinator.asked) == (0, [])


@pytest.mark.parametrize(
    ("outcome", "status", "counted"),
    [(Outcome.CONFIRM, "deducted", (8, 0, 2)), (Outcome.CANCEL, "restocked", (10, 0, 0))],
)
async def test_an_overdue_hold_asks_and_is_settled_once(
    store: Store, outcome: Outcome, status: str, counted: tuple[int, int, int]
) -> None:
    coordinator = Coordinator(outcome)
    await store.execute(hold("t1", lease_ms=1, lamp=2))
    await store.until_overdue()
    assert await store.inquire(coordinator) == 1
    assert await store.status("t1") == status
    assert (await store.inquire(coordinator), coordinator.asked) == (0, ["t1"])
    # The coordinator's own command comes after all.
    late = confirm("t1") if outcome is Outcome.CONFIRM else restock("t1")
    assert await store.execute(late) == [done(lamp=2)]
    assert await store.counted("lamp") == counted


async def test_an_overdue_hold_stays_until_somebody_decides(store: Store) -> None:
    await store.execute(hold("t1", lease_ms=1, lamp=2))
    await store.until_overdue()
    assert await store.inquire(Coordinator(Outcome.UNDECIDED)) == 0
    assert (await store.status("t1"), await store.counted("lamp")) == ("held", (8, 2, 0))


async def test_a_hold_that_was_decided_against_does_not_come_back(store: Store) -> None:
    await store.execute(hold("t1", lease_ms=1, lamp=2))
    await store.until_overdue()
    await store.inquire(Coordinator(Outcome.CANCEL))
    # A repeat is answered as it was, and holds nothing.
    assert codes(await store.execute(hold("t1", lease_ms=1, lamp=2))) == ["done"]
    assert (await store.status("t1"), await store.counted("lamp")) == ("restocked", (10, 0, 0))
