"""Inventory's handlers on a real database: once for each key, all lines or none, a refusal is nobody else's."""

import asyncio

import pytest

from libs.kernel.errors import Mismatch, Refused, Unavailable
from libs.kernel.money import Money
from libs.runtime.batching import Batcher
from services.inventory.domain import Line, Product, new_product
from services.inventory.handlers import Command, Done, batch_key
from tests.integration.inventory.storeroom import Store, codes, create, deduct, restock


async def test_a_repeated_deduction_takes_once_and_answers_the_same(store: Store) -> None:
    first = await store.execute(deduct("t1", lamp=2))
    again = await store.execute(deduct("t1", lamp=2))
    assert first == again == [Done(lines=(Line("lamp", 2),))]
    assert await store.stock("lamp") == (8, 2)


async def test_a_refusal_in_a_batch_is_its_own_and_stays(store: Store) -> None:
    outcomes = await store.execute(deduct("t1", lamp=2), deduct("t2", lamp=1, rope=2), deduct("t3", rope=1))
    assert codes(outcomes) == ["done", "out-of-stock", "done"]
    assert (await store.stock("lamp"), await store.stock("rope")) == ((8, 2), (0, 1))
    await store.execute(restock("t3"))
    assert codes(await store.execute(deduct("t2", lamp=1, rope=2))) == ["out-of-stock"]


async def test_within_a_batch_the_first_to_ask_gets_the_last_one(store: Store) -> None:
    assert codes(await store.execute(deduct("t1", rope=1), deduct("t2", rope=1))) == ["done", "out-of-stock"]


async def test_a_restock_gives_back_once_what_was_taken(store: Store) -> None:
    await store.execute(deduct("t1", lamp=2))
    assert await store.execute(restock("t1")) == await store.execute(restock("t1")) == [Done(lines=(Line("lamp", 2),))]
    assert await store.stock("lamp") == (10, 0)


async def test_an_undo_that_comes_first_wins(store: Store) -> None:
    assert await store.execute(restock("t1")) == [Done()]
    assert codes(await store.execute(deduct("t1", lamp=2))) == ["undone-before-done"]
    assert await store.stock("lamp") == (10, 0)


async def test_the_undo_of_a_refused_do_gives_nothing_back(store: Store) -> None:
    await store.execute(deduct("t1", rope=2))
    assert await store.execute(restock("t1")) == [Done()]
    assert await store.stock("rope") == (1, 0)


async def test_a_key_with_another_request_is_a_mismatch(store: Store) -> None:
    await store.execute(deduct("t1", lamp=2))
    (outcome,) = await store.execute(deduct("t1", lamp=3))
    assert isinstance(outcome, Mismatch)


async def test_two_hundred_customers_at_once_never_sell_what_is_not_there(store: Store) -> None:
    batcher: Batcher[Command, Done] = Batcher("test", store.handlers.execute, in_flight_max=4, key=batch_key)

    async def buy(number: int) -> bool:
        wanted = deduct(f"t{number}", lamp=1, rope=1) if number % 2 else deduct(f"t{number}", lamp=1)
        try:
            await batcher.submit(wanted)
        except Refused:
            return False
        return True

    sold = sum(await asyncio.gather(*(buy(number) for number in range(200))))
    assert sold <= 10
    on_hand, gone = await store.stock("lamp")
    assert (on_hand + gone, gone) == (10, sold)


async def test_a_product_is_announced_when_it_is_new_and_when_its_price_changes(store: Store) -> None:
    assert await store.announced() == [("lamp", 100, 1), ("rope", 100, 1)]
    await store.execute(create("same", lamp=99))
    await store.execute(deduct("t1", lamp=1))
    await store.execute(create("dearer", 120, lamp=99), create("dearer still", 130, lamp=99, bolt=1))
    assert (await store.announced())[2:] == [("lamp", 130, 3), ("bolt", 130, 1)]
    assert await store.stock("lamp") == (9, 1)


async def test_a_new_product_can_be_taken_in_the_batch_that_creates_it(store: Store) -> None:
    assert codes(await store.execute(create("k", bolt=2), deduct("t1", bolt=1), deduct("t2", bolt=2))) == [
        "done",
        "done",
        "out-of-stock",
    ]
    assert await store.stock("bolt") == (1, 1)


async def test_who_loses_the_race_to_create_a_product_is_asked_to_try_again(store: Store) -> None:
    lamp = new_product("lamp", "Another lamp", Money(1, "EUR"), 1)
    with pytest.raises(Unavailable):
        await add(store, lamp)
    assert await store.stock("lamp") == (10, 0)


async def add(store: Store, product: Product) -> None:
    async with store.units.open() as unit:
        await unit.products.add([product])
