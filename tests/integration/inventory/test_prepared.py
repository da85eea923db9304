"""Deductions that are prepared: nobody sees them before their commit, and an outcome comes once."""

import asyncio

import pytest

from libs.coordination.outcomes import Outcome
from libs.kernel.errors import Invalid, Unavailable
from libs.tcc.barrier import Manner
from services.inventory.domain import Line
from services.inventory.entrypoints.desk import PREPARED_LETTERS_MAX
from services.inventory.handlers import Done, execute
from tests.integration.inventory.storeroom import (
    CONNECTIONS,
    Coordinator,
    Store,
    code,
    confirm,
    create,
    deduct,
    done,
    hold,
    prepare,
    restock,
)

PREPARE = Manner.PREPARE


async def test_a_prepared_deduction_is_seen_once_it_is_committed(store: Store) -> None:
    assert await store.prepare(prepare("t1", lamp=2)) == done(lamp=2)
    assert (await store.status("t1"), await store.counted("lamp")) == ("none", (10, 0, 0))
    for _ in range(2):
        assert await store.desk.confirm("t1", PREPARE) == done(lamp=2)
        assert (await store.status("t1"), await store.counted("lamp")) == ("deducted", (8, 0, 2))


async def test_a_prepared_deduction_that_is_rolled_back_never_was(store: Store) -> None:
    await store.prepare(prepare("t1", lamp=2))
    for _ in range(2):
        assert await store.desk.restock("t1", PREPARE) == Done()
    assert (await store.status("t1"), await store.counted("lamp")) == ("none", (10, 0, 0))


async def test_a_repeated_prepare_votes_yes_again(store: Store) -> None:
    for _ in range(2):
        assert await store.prepare(prepare("t1", lamp=2)) == done(lamp=2)
    await store.desk.confirm("t1", PREPARE)
    assert await store.prepare(prepare("t1", lamp=2)) == done(lamp=2)
    assert (await store.counted("lamp"), await store.prepared.overdue(0.0, 10)) == ((8, 0, 2), [])


async def test_a_prepare_that_comes_after_its_undo_prepares_nothing(store: Store) -> None:
    assert await store.desk.restock("t1", PREPARE) == Done()
    assert code(await store.prepare(prepare("t1", lamp=2))) == "undone-before-done"
    assert (await store.counted("lamp"), await store.prepared.overdue(0.0, 10)) == ((10, 0, 0), [])


async def test_a_refusal_is_final_at_once_and_locks_nothing(store: Store) -> None:
    for _ in range(2):
        assert code(await store.prepare(prepare("t1", lamp=1, rope=2))) == "out-of-stock"
    assert await store.prepared.overdue(0.0, 10) == []
    assert await store.told(deduct("t2", lamp=1, rope=1)) == ["done"]
    assert await store.desk.restock("t1", PREPARE) == Done()


async def test_what_is_held_cannot_be_prepared(store: Store) -> None:
    await store.execute(hold("t1", rope=1))
    assert code(await store.prepare(prepare("t2", rope=1))) == "out-of-stock"


async def test_what_was_never_prepared_cannot_be_committed(store: Store) -> None:
    assert await store.told(confirm("t1", PREPARE)) == ["nothing-held"]


async def test_a_committed_deduction_can_still_be_put_back_with_its_order(store: Store) -> None:
    await store.prepare(prepare("t1", lamp=2))
    await store.desk.confirm("t1", PREPARE)
    assert await store.execute(restock("t1")) == [done(lamp=2)]
    assert (await store.status("t1"), await store.counted("lamp")) == ("restocked", (10, 0, 0))


async def test_a_restock_between_commit_and_confirmation_leaves_nothing_to_confirm(store: Store) -> None:
    await store.prepare(prepare("t1", lamp=2))
    await store.prepared.commit("t1")
    await store.execute(restock("t1"))
    assert await store.desk.confirm("t1", PREPARE) == Done()
    assert await store.counted("lamp") == (10, 0, 0)


async def test_the_name_of_what_is_prepared_must_fit(store: Store) -> None:
    fits = "x" * PREPARED_LETTERS_MAX
    assert await store.desk.deduct(fits, [Line("lamp", 1)], PREPARE) == done(lamp=1)
    assert await store.desk.confirm(fits, PREPARE) == done(lamp=1)
    for wrong in (fits + "x", "\u00e4"):
        with pytest.raises(Invalid):
            await store.desk.deduct(wrong, [Line("lamp", 1)], PREPARE)
        assert await store.desk.restock(wrong, PREPARE) == Done()


# What is locked, and who waits for it.


async def test_a_prepared_deduction_locks_its_own_products_only(store: Store) -> None:
    await store.prepare(prepare("t1", lamp=2))
    assert await store.told(deduct("t2", rope=1)) == ["done"]
    assert code(await store.prepare(prepare("t3", rope=1))) == "out-of-stock"
    free = await store.rows("SELECT sku FROM products ORDER BY sku FOR UPDATE SKIP LOCKED")
    assert [row[0] for row in free] == ["rope"]


async def test_a_confirmation_does_not_wait_for_the_next_one_to_lock_the_product(store: Store) -> None:
    await store.prepare(prepare("t1", lamp=1))
    await store.prepared.commit("t1")
    await store.prepare(prepare("t2", lamp=1))
    async with asyncio.timeout(1):
        assert await store.execute(confirm("t1", PREPARE)) == [done(lamp=1)]


async def test_the_end_of_a_prepared_deduction_does_not_wait_behind_who_waits_for_the_next_one(store: Store) -> None:
    await store.prepare(prepare("t1", rope=1))
    await store.prepare(prepare("t2", lamp=1))
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(store.desk.deduct("t3", [Line("lamp", 1)]))
        await store.until_somebody_waits()
        async with asyncio.timeout(1):
            assert await store.desk.confirm("t1", PREPARE) == done(rope=1)
            assert await store.desk.restock("t2", PREPARE) == Done()
    assert waiting.result() == done(lamp=1)


async def test_who_needs_the_product_of_a_prepared_deduction_waits_for_its_outcome(store: Store) -> None:
    await store.prepare(prepare("t1", rope=1))
    async with asyncio.TaskGroup() as group:
        second = group.create_task(store.prepare(prepare("t2", rope=1)))
        batch = group.create_task(store.told(deduct("t3", rope=1), deduct("t4", lamp=1)))
        await store.until_somebody_waits()
        await store.desk.confirm("t1", PREPARE)
    assert (code(second.result()), batch.result()) == ("out-of-stock", ["out-of-stock", "done"])


async def test_a_prepare_that_waits_too_long_is_told_that_nothing_happened(store: Store) -> None:
    await store.prepare(prepare("t1", lamp=1))
    assert isinstance(await store.prepare(prepare("t2", lamp=1)), Unavailable)
    await store.desk.restock("t1", PREPARE)
    assert await store.prepare(prepare("t2", lamp=1)) == done(lamp=1)


async def test_a_batch_that_waits_too_long_is_told_that_nothing_happened(store: Store) -> None:
    await store.prepare(prepare("t1", lamp=1))
    # One waits for the product, the other one for the barrier: its transaction was not rolled back first.
    batches = ([deduct("t2", lamp=1), hold("t3", rope=1)], [restock("t1")])
    told = await asyncio.gather(*(store.execute(*batch) for batch in batches), return_exceptions=True)
    assert [type(one) for one in told] == [Unavailable, Unavailable]
    assert await store.desk.restock("t1", PREPARE) == Done()
    assert await store.told(deduct("t2", lamp=1), hold("t3", rope=1)) == ["done", "done"]
    assert (await store.counted("lamp"), await store.counted("rope")) == ((9, 0, 1), (0, 1, 0))


async def test_a_prepare_and_a_transaction_that_wait_for_each_other_end_and_one_is_to_try_again(store: Store) -> None:
    async def take_and_then_undo() -> None:
        async with store.units.open() as unit:
            await execute(unit, [deduct("t2", lamp=1)])
            begun.set()
            await store.until_somebody_waits()
            await execute(unit, [restock("t1")])

    async def told() -> str:
        try:
            await take_and_then_undo()
        except Unavailable as error:
            return error.code
        return "done"

    begun = asyncio.Event()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        transaction = group.create_task(told())
        await begun.wait()
        prepared = group.create_task(store.prepare(prepare("t1", lamp=1)))
    assert "database-busy" in {transaction.result(), code(prepared.result())}
    await store.desk.restock("t1", PREPARE)
    assert await store.told(deduct("t2", lamp=1)) == ["done"]
    assert await store.counted("lamp") == (9, 0, 1)


async def test_prepares_that_name_their_products_in_other_orders_do_not_wait_in_a_circle(store: Store) -> None:
    await store.execute(create("k", bolt=100, anvil=100))

    async def prepare_and_commit(number: int) -> None:
        lines = {"bolt": 1, "anvil": 1} if number % 2 else {"anvil": 1, "bolt": 1}
        assert await store.prepare(prepare(f"t{number}", **lines)) == done(**lines)
        await store.desk.confirm(f"t{number}", PREPARE)

    await asyncio.gather(*(prepare_and_commit(number) for number in range(20)))
    assert (await store.counted("bolt"), await store.counted("anvil")) == ((80, 0, 20), (80, 0, 20))


async def test_prepares_that_wait_leave_connections_to_who_could_end_them(store: Store) -> None:
    await store.prepare(prepare("t0", lamp=1))
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(store.prepare(prepare(f"t{number}", lamp=1))) for number in range(1, CONNECTIONS + 2)
        ]
        await store.until_somebody_waits()
        async with asyncio.timeout(1):
            await store.desk.confirm("t0", PREPARE)
        for one in waiting:
            one.cancel()
    assert await store.status("t0") == "deducted"


# Who kept something for too long asks.


@pytest.mark.parametrize(
    ("outcome", "status", "counted"), [(Outcome.CONFIRM, "deducted", (8, 0, 2)), (Outcome.CANCEL, "none", (10, 0, 0))]
)
async def test_what_is_prepared_for_too_long_asks_and_is_settled_once(
    store: Store, outcome: Outcome, status: str, counted: tuple[int, int, int]
) -> None:
    coordinator = Coordinator(outcome)
    await store.prepare(prepare("t1", lamp=2))
    assert (await store.inquire(coordinator, patience_seconds=60.0), coordinator.asked) == (0, [])
    assert await store.inquire(coordinator) == 1
    assert (await store.status("t1"), await store.counted("lamp")) == (status, counted)
    # The coordinator's own command comes after all.
    if outcome is Outcome.CONFIRM:
        assert await store.desk.confirm("t1", PREPARE) == done(lamp=2)
    else:
        assert await store.desk.restock("t1", PREPARE) == Done()
    assert (await store.inquire(coordinator), coordinator.asked) == (0, ["t1"])
    assert await store.counted("lamp") == counted
