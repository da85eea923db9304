"""Natural batching: what collects, what is kept apart, and whose failure is whose."""

import asyncio
from collections.abc import Sequence

import pytest

from libs.kernel.errors import DockyardError, InDoubt, Overloaded, Refused, Unavailable
from libs.runtime.batching import Batcher
from libs.telemetry.tracing import current_traceparent, start_root


class Handler:
    """Doubles numbers, a batch at a time, and lets the test decide when a batch may end."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.overlapping = 0
        self.most_overlapping = 0
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        if not held:
            self.gate.set()

    async def __call__(self, items: Sequence[int]) -> Sequence[int | DockyardError]:
        self.batches.append(list(items))
        self.overlapping += 1
        self.most_overlapping = max(self.most_overlapping, self.overlapping)
        self.begun.set()
        await self.gate.wait()
        self.overlapping -= 1
        return [2 * item for item in items]


async def all_of(batcher: Batcher[int, int], *items: int) -> list[int | BaseException]:
    return list(await asyncio.gather(*(batcher.submit(item) for item in items), return_exceptions=True))


async def test_an_idle_batcher_answers_at_once_and_what_comes_together_goes_together() -> None:
    handler = Handler()
    assert await all_of(Batcher("test", handler), 1, 2, 3) == [2, 4, 6]
    assert handler.batches == [[1, 2, 3]]


async def test_what_arrives_while_a_batch_is_in_flight_becomes_the_next_one_in_order() -> None:
    handler = Handler(held=True)
    batcher = Batcher("test", handler)
    async with asyncio.TaskGroup() as group:
        group.create_task(batcher.submit(0))
        await handler.begun.wait()
        for item in range(1, 6):
            group.create_task(batcher.submit(item))
        await asyncio.sleep(0)
        handler.gate.set()
    assert handler.batches == [[0], [1, 2, 3, 4, 5]]


async def test_a_batch_is_no_longer_than_it_may_be() -> None:
    handler = Handler()
    await all_of(Batcher("test", handler, batch_rows_max=2), 1, 2, 3, 4, 5)
    assert handler.batches == [[1, 2], [3, 4], [5]]


async def test_no_more_batches_are_in_flight_than_may_be() -> None:
    handler = Handler()
    await all_of(Batcher("test", handler, batch_rows_max=1, in_flight_max=3), *range(20))
    assert handler.most_overlapping <= 3


async def test_one_refusal_is_nobody_elses() -> None:
    async def refuse_odd(items: Sequence[int]) -> Sequence[int | DockyardError]:
        return [Refused("odd") if item % 2 else item for item in items]

    outcomes = await all_of(Batcher("test", refuse_odd), 1, 2, 3, 4)
    assert [outcome if isinstance(outcome, int) else "refused" for outcome in outcomes] == ["refused", 2, "refused", 4]


@pytest.mark.parametrize("error", [Unavailable("down"), InDoubt("lost")])
async def test_what_the_world_does_to_a_batch_it_does_to_each_of_it(error: DockyardError) -> None:
    async def fail(items: Sequence[int]) -> Sequence[int | DockyardError]:
        raise error

    outcomes = await all_of(Batcher("test", fail), 1, 2, 3)
    assert [type(outcome) for outcome in outcomes] == [type(error)] * 3


async def test_a_poisoned_item_is_found_and_its_neighbours_are_served() -> None:
    tried: list[list[int]] = []

    async def choke_on_five(items: Sequence[int]) -> Sequence[int | DockyardError]:
        tried.append(list(items))
        if 5 in items:
            raise ZeroDivisionError
        return list(items)

    outcomes = await all_of(Batcher("test", choke_on_five), *range(8))
    assert [item for item in outcomes if isinstance(item, int)] == [0, 1, 2, 3, 4, 6, 7]
    assert isinstance(outcomes[5], ZeroDivisionError)
    assert len(tried) <= 7  # halving finds one of eight in three steps, two tries each


async def test_a_handler_that_answers_too_little_is_loud() -> None:
    async def forgetful(items: Sequence[int]) -> Sequence[int | DockyardError]:
        return []

    (outcome,) = await all_of(Batcher("test", forgetful), 1)
    assert isinstance(outcome, AssertionError)


async def test_a_full_queue_refuses_before_any_work() -> None:
    handler = Handler(held=True)
    batcher = Batcher("test", handler, queue_rows_max=2)
    async with asyncio.TaskGroup() as group:
        group.create_task(batcher.submit(0))
        await handler.begun.wait()
        group.create_task(batcher.submit(1))
        group.create_task(batcher.submit(2))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batcher.submit(3)
        handler.gate.set()
    assert handler.batches == [[0], [1, 2]]


async def test_items_of_one_key_never_share_a_batch_nor_overlap_and_keep_their_order() -> None:
    handler = Handler()
    batcher = Batcher("test", handler, in_flight_max=4, key=lambda item: item % 10)
    await all_of(batcher, 1, 11, 2, 21, 31)
    assert all(len({item % 10 for item in batch}) == len(batch) for batch in handler.batches)
    ones = [item for batch in handler.batches for item in batch if item % 10 == 1]
    assert ones == [1, 11, 21, 31]


async def test_a_submitter_that_gave_up_before_its_batch_began_is_left_out() -> None:
    handler = Handler(held=True)
    batcher = Batcher("test", handler)
    async with asyncio.TaskGroup() as group:
        group.create_task(batcher.submit(0))
        await handler.begun.wait()
        given_up = group.create_task(batcher.submit(1))
        group.create_task(batcher.submit(2))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        handler.gate.set()
    assert handler.batches == [[0], [2]]


async def test_a_submitter_that_gives_up_does_not_stop_its_batch() -> None:
    handler = Handler(held=True)
    batcher = Batcher("test", handler)
    async with asyncio.TaskGroup() as group:
        given_up, patient = group.create_task(batcher.submit(1)), group.create_task(batcher.submit(2))
        await handler.begun.wait()
        given_up.cancel()
        handler.gate.set()
    assert given_up.cancelled()
    assert patient.result() == 4


async def test_a_draining_batcher_finishes_what_it_took_and_takes_nothing_new() -> None:
    handler = Handler(held=True)
    batcher = Batcher("test", handler)
    async with asyncio.TaskGroup() as group:
        taken = [group.create_task(batcher.submit(item)) for item in (1, 2)]
        await handler.begun.wait()
        drained = group.create_task(batcher.drain())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await batcher.submit(3)
        handler.gate.set()
    assert drained.done()
    assert [task.result() for task in taken] == [2, 4]


async def test_a_patient_item_goes_along_with_the_next_batch_or_with_the_drain() -> None:
    handler = Handler()
    batcher = Batcher("test", handler)
    async with asyncio.TaskGroup() as group:
        group.create_task(batcher.submit(1, patient=True))
        await asyncio.sleep(0)
        assert handler.batches == []
        group.create_task(batcher.submit(2))
    assert handler.batches == [[1, 2]]
    async with asyncio.TaskGroup() as group:
        group.create_task(batcher.submit(3, patient=True))
        await asyncio.sleep(0)
        group.create_task(batcher.drain())
    assert handler.batches == [[1, 2], [3]]


async def test_an_offer_that_failed_is_heard_of() -> None:
    lost: list[tuple[int, str]] = []

    async def fail(items: Sequence[int]) -> Sequence[int | DockyardError]:
        raise Unavailable("down")

    batcher = Batcher("test", fail, on_lost=lambda item, error: lost.append((item, str(error))))
    batcher.offer(1)
    await batcher.drain()
    assert lost == [(1, "down")]


async def test_a_batch_works_for_everybody_and_in_nobodys_trace() -> None:
    seen: list[str] = []

    async def look(items: Sequence[int]) -> Sequence[int | DockyardError]:
        seen.append(current_traceparent())
        return list(items)

    with start_root(None):
        assert current_traceparent() != ""
        await Batcher("test", look).submit(1)
    assert seen == [""]
