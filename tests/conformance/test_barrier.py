"""What every barrier promises: an effect happens at most once, and an undo that comes first wins."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import asyncpg
import pytest
import pytest_asyncio

from libs.runtime.database import Database
from libs.tcc.barrier import Claim, Empty, Entry, First, Key, Mismatch, Operation, Replay, Suspended, Unfinished
from libs.tcc.memory_barrier import MemoryBarrier
from libs.tcc.postgres_barrier import BARRIER_DDL, CONFIRM_DDL, PostgresBarrier
from tests.conftest import MakeDatabase

DO = Key("ord_1", "charge", Operation.DO)
UNDO = Key("ord_1", "charge", Operation.UNDO)
CONFIRM = Key("ord_1", "charge", Operation.CONFIRM)


class Barriers(Protocol):
    """A barrier each of whose calls is a transaction that commits."""

    async def claim(self, entries: Sequence[Entry]) -> Sequence[Claim]: ...

    async def answer(self, answers: Sequence[tuple[Key, bytes]]) -> None: ...


class CommittingPostgres:
    def __init__(self, database: Database) -> None:
        self.database = database

    async def claim(self, entries: Sequence[Entry]) -> Sequence[Claim]:
        async with self.database.transaction() as connection:
            return await PostgresBarrier(connection).claim(entries)

    async def answer(self, answers: Sequence[tuple[Key, bytes]]) -> None:
        async with self.database.transaction() as connection:
            await PostgresBarrier(connection).answer(answers)


@pytest_asyncio.fixture
async def postgres(make_database: MakeDatabase) -> AsyncIterator[CommittingPostgres]:
    url = await make_database("barrier")
    connection = await asyncpg.connect(url)
    for statement in (*BARRIER_DDL, *CONFIRM_DDL):
        await connection.execute(statement)
    await connection.close()
    database = Database.open(url, 4, "test")
    yield CommittingPostgres(database)
    await database.close()


@pytest.fixture(params=["memory", "postgres"])
def barrier(request: pytest.FixtureRequest) -> Barriers:
    found: Barriers = MemoryBarrier() if request.param == "memory" else request.getfixturevalue("postgres")
    return found


async def one(barrier: Barriers, key: Key, fingerprint: bytes = b"asked") -> Claim:
    (claim,) = await barrier.claim([Entry(key, fingerprint)])
    return claim


async def test_the_first_has_the_effect_and_a_repeat_gets_its_answer(barrier: Barriers) -> None:
    assert await one(barrier, DO) == First()
    await barrier.answer([(DO, b"charged")])
    assert await one(barrier, DO) == Replay(b"charged")


async def test_a_claim_without_an_answer_is_carried_on(barrier: Barriers) -> None:
    await one(barrier, DO)
    assert await one(barrier, DO) == Unfinished()


async def test_an_answer_known_beforehand_is_kept_with_the_claim(barrier: Barriers) -> None:
    await barrier.claim([Entry(DO, b"asked", b"ord_1")])
    assert await one(barrier, DO) == Replay(b"ord_1")


async def test_the_key_of_another_request_is_a_mismatch(barrier: Barriers) -> None:
    await one(barrier, DO)
    assert await one(barrier, DO, b"something else") == Mismatch()


async def test_an_undo_is_told_what_its_do_answered(barrier: Barriers) -> None:
    await one(barrier, DO)
    await barrier.answer([(DO, b"charged")])
    assert await one(barrier, UNDO) == First(b"charged")
    await barrier.answer([(UNDO, b"refunded")])
    assert await one(barrier, UNDO) == Replay(b"refunded")


async def test_an_undo_of_an_unfinished_do_is_unfinished_itself(barrier: Barriers) -> None:
    await one(barrier, DO)
    assert await one(barrier, UNDO) == Unfinished()


async def test_an_undo_that_comes_first_is_empty_and_its_do_never_runs(barrier: Barriers) -> None:
    assert await one(barrier, UNDO) == Empty()
    assert await one(barrier, DO) == Suspended()
    assert await one(barrier, UNDO) == Empty()
    await barrier.answer([(UNDO, b"nothing")])
    assert await one(barrier, UNDO) == Replay(b"nothing")
    assert await one(barrier, DO) == Suspended()


async def test_each_of_a_batch_gets_its_own_claim_in_order(barrier: Barriers) -> None:
    await one(barrier, DO)
    await barrier.answer([(DO, b"charged")])
    keys = [Key("z", "charge", Operation.DO), DO, Key("a", "charge", Operation.UNDO)]
    assert await barrier.claim([Entry(key, b"asked") for key in keys]) == [First(), Replay(b"charged"), Empty()]


async def test_a_do_and_its_undo_never_share_a_batch(barrier: Barriers) -> None:
    with pytest.raises(AssertionError, match="share a batch"):
        await barrier.claim([Entry(DO, b""), Entry(UNDO, b"")])


async def test_of_two_transactions_at_once_one_has_the_effect_and_the_other_its_answer(
    postgres: CommittingPostgres,
) -> None:
    claimed = asyncio.Event()
    go_on = asyncio.Event()

    async def first() -> Claim:
        async with postgres.database.transaction() as connection:
            barrier = PostgresBarrier(connection)
            (claim,) = await barrier.claim([Entry(DO, b"asked")])
            claimed.set()
            await go_on.wait()
            await barrier.answer([(DO, b"charged")])
            return claim

    async def second() -> Claim:
        await claimed.wait()
        async with asyncio.TaskGroup() as group:
            claim = group.create_task(one(postgres, DO))
            go_on.set()
        return claim.result()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(first()), group.create_task(second())]
    assert [task.result() for task in tasks] == [First(), Replay(b"charged")]


async def test_a_claim_that_was_rolled_back_was_never_made(postgres: CommittingPostgres) -> None:
    with pytest.raises(ZeroDivisionError):
        await claimed_and_failed(postgres)
    assert await one(postgres, DO) == First()


async def claimed_and_failed(postgres: CommittingPostgres) -> None:
    async with postgres.database.transaction() as connection:
        await PostgresBarrier(connection).claim([Entry(DO, b"asked")])
        raise ZeroDivisionError


async def test_a_confirm_happens_once_and_leaves_do_and_undo_as_they_are(barrier: Barriers) -> None:
    await one(barrier, DO)
    await barrier.answer([(DO, b"held")])
    assert await one(barrier, CONFIRM) == First()
    await barrier.answer([(CONFIRM, b"sold")])
    assert await one(barrier, CONFIRM) == Replay(b"sold")
    assert await one(barrier, DO) == Replay(b"held")
    assert await one(barrier, UNDO) == First(b"held")
    assert await one(barrier, CONFIRM) == Replay(b"sold")
