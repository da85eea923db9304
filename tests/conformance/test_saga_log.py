"""Every saga log keeps the promise of `libs.saga.log.SagaLog`; what PostgreSQL adds to it stands at the end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import text

from libs.kernel.errors import Unavailable
from libs.runtime.clock import ManualClock, SystemClock
from libs.runtime.database import Database
from libs.saga.entries import (
    AnyEntry,
    CancelRequested,
    Ended,
    EndForced,
    FaultKind,
    Parked,
    PivotDecided,
    Resumed,
    Skipped,
    Started,
    StepDone,
    StepFailed,
    StepRefused,
    TakenUp,
    UndoDecided,
    UndoDone,
    UndoFailed,
)
from libs.saga.log import ENDED, PARKED, RUNNING, UNDOING, Instance, Line, SagaLog, Tail
from libs.saga.memory_log import MemorySagaLog
from libs.saga.postgres_log import SAGA_DDL, PostgresSagaLog, start_rows

MakeDatabase = Callable[..., Awaitable[str]]
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, UTC)
# Who holds the right to run this database's sagas.
HOLDER = text(
    """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
)
WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
TERMINATE = text("SELECT pg_terminate_backend(:pid)")

EVERY_ENTRY: tuple[AnyEntry, ...] = (
    Started(),
    TakenUp("run_1"),
    StepFailed("take", 1, FaultKind.IN_DOUBT, "no answer"),
    StepDone("take", {"lines": [{"sku": "lamp", "quantity": 2}], "größe": None, "sum": 12.5}),
    StepRefused("charge", "card-declined", "no money"),
    PivotDecided("confirm"),
    CancelRequested("changed my mind"),
    UndoDecided("charge", "card-declined", "no money"),
    UndoFailed("take", 1, "closed"),
    UndoDone("take", "restocked"),
    Parked("step tell failed"),
    Resumed("ops", "fixed"),
    Skipped("tell", "ops", "by phone", "ticket 7"),
    EndForced("ops", "enough"),
    Ended("undone"),
)


@dataclass(frozen=True)
class Body:
    order_id: str
    lines: tuple[str, ...] = ()


@dataclass
class Subject:
    """A log, and how sagas get into it."""

    log: SagaLog
    start: Callable[[Sequence[Instance]], Awaitable[None]]


@asynccontextmanager
async def _postgres(make_database: MakeDatabase) -> AsyncIterator[Database]:
    database = Database.open(await make_database("saga-log"), 4, "test")
    async with database.transaction() as connection:
        for statement in SAGA_DDL:
            await connection.execute(text(statement))
    yield database
    await database.close()


@pytest_asyncio.fixture
async def database(make_database: MakeDatabase) -> AsyncIterator[Database]:
    async with _postgres(make_database) as opened:
        yield opened


@pytest_asyncio.fixture(params=["memory", "postgres"])
async def subject(request: pytest.FixtureRequest, make_database: MakeDatabase) -> AsyncIterator[Subject]:
    if request.param == "memory":
        memory = MemorySagaLog()

        async def remember(instances: Sequence[Instance]) -> None:
            memory.start(instances)

        yield Subject(memory, remember)
        return
    async with _postgres(make_database) as opened:
        yield Subject(PostgresSagaLog(opened, {"checkout": Body}, SystemClock()), _starter(opened))


def _starter(database: Database) -> Callable[[Sequence[Instance]], Awaitable[None]]:
    async def start(instances: Sequence[Instance]) -> None:
        async with database.transaction() as connection:
            await start_rows(connection, instances)

    return start


def instance(saga_id: str = "o1") -> Instance:
    return Instance(saga_id, "checkout", 3, Body(saga_id, ("lamp", "chair")), "00-trace-01", NOON)


def tail(saga_id: str, *entries: AnyEntry, after: int = 0, by: timedelta = timedelta()) -> Tail:
    lines = [Line(seq, NOON + timedelta(seconds=seq) + by, entry) for seq, entry in enumerate(entries, after + 1)]
    return Tail(saga_id, lines)


async def test_a_saga_is_read_back_as_it_was_started(subject: Subject) -> None:
    await subject.start([instance("o1"), instance("o2")])
    found = await subject.log.load(["o1", "o9"])
    assert list(found) == ["o1"]
    assert (found["o1"].instance, found["o1"].status, list(found["o1"].lines)) == (instance("o1"), RUNNING, [])


async def test_a_saga_that_is_started_again_stays_as_it_is(subject: Subject) -> None:
    await subject.start([instance()])
    await subject.log.write([tail("o1", Started(), StepDone("take"))])
    await subject.start([instance()])
    assert len((await subject.log.load(["o1"]))["o1"].lines) == 2


async def test_every_kind_of_line_is_read_back_as_it_was_written(subject: Subject) -> None:
    await subject.start([instance()])
    written = tail("o1", *EVERY_ENTRY)
    assert not await subject.log.write([written])
    assert list((await subject.log.load(["o1"]))["o1"].lines) == list(written.lines)


async def test_lines_follow_each_other_over_many_writes_and_many_sagas(subject: Subject) -> None:
    await subject.start([instance("o1"), instance("o2")])
    await subject.log.write([tail("o2", Started()), tail("o1", Started(), StepDone("take"))])
    await subject.log.write([tail("o1", StepDone("charge"), after=2), tail("o2", StepDone("take"), after=1)])
    found = await subject.log.load(["o1", "o2"])
    assert [line.entry for line in found["o1"].lines] == [Started(), StepDone("take"), StepDone("charge")]
    assert [line.entry for line in found["o2"].lines] == [Started(), StepDone("take")]


async def test_writing_nothing_is_allowed(subject: Subject) -> None:
    assert not await subject.log.write([])
    assert not await subject.log.load([])


async def test_writing_the_same_lines_again_changes_nothing(subject: Subject) -> None:
    """A commit in doubt is repeated."""
    await subject.start([instance("o1"), instance("o2")])
    twice = [tail("o1", *EVERY_ENTRY), tail("o2", Started(), Ended("completed"))]
    assert not await subject.log.write(twice)
    assert not await subject.log.write([*twice])
    found = await subject.log.load(["o1", "o2"])
    assert [len(found[saga_id].lines) for saga_id in ("o1", "o2")] == [len(EVERY_ENTRY), 2]
    assert found["o2"].status == ENDED


@pytest.mark.parametrize(
    "rival",
    [
        tail("o1", Started(), TakenUp("run_2"), Ended("completed")),
        tail("o1", Started(), StepDone("take"), Ended("undone")),
        tail("o1", Started(), TakenUp("run_1"), by=timedelta(microseconds=1)),
    ],
    ids=["another entry", "another result", "another time"],
)
async def test_of_two_writers_of_one_saga_the_later_one_finds_out_and_writes_nothing(
    subject: Subject, rival: Tail
) -> None:
    await subject.start([instance("o1"), instance("o2")])
    first = tail("o1", Started(), TakenUp("run_1"), StepDone("take"))
    await subject.log.write([first])
    assert set(await subject.log.write([rival, tail("o2", Started(), Ended("completed"))])) == {"o1"}
    found = await subject.log.load(["o1", "o2"])
    assert list(found["o1"].lines) == list(first.lines)
    assert found["o1"].status == RUNNING
    assert (found["o2"].status, len(found["o2"].lines)) == (ENDED, 2)


@pytest.mark.parametrize(
    ("entries", "status"),
    [
        ((Started(), StepDone("take"), PivotDecided("confirm")), RUNNING),
        ((Started(), UndoDecided("take", "no", "")), UNDOING),
        ((Started(), UndoDecided("take", "no", ""), UndoFailed("take", 1, "")), UNDOING),
        ((Started(), Parked("stuck")), PARKED),
        ((Started(), Parked("stuck"), Resumed("ops", "fixed")), RUNNING),
        ((Started(), Parked("stuck"), Skipped("take", "ops", "by hand", "seen")), RUNNING),
        ((Started(), UndoDecided("take", "no", ""), Parked("stuck"), Resumed("ops", "fixed")), UNDOING),
        (
            (Started(), UndoDecided("take", "no", ""), Parked("stuck"), Skipped("take", "ops", "by hand", "seen")),
            UNDOING,
        ),
        ((Started(), Parked("stuck"), Resumed("ops", "fixed"), Parked("stuck")), PARKED),
        ((Started(), Parked("stuck"), EndForced("ops", "enough")), ENDED),
        ((Started(), UndoDecided("take", "no", ""), Ended("undone")), ENDED),
    ],
)
async def test_the_last_decision_is_the_status(subject: Subject, entries: tuple[AnyEntry, ...], status: str) -> None:
    await subject.start([instance()])
    await subject.log.write([tail("o1", *entries)])
    assert (await subject.log.load(["o1"]))["o1"].status == status


async def test_unfinished_sagas_come_in_order_and_in_pages(subject: Subject) -> None:
    names = [f"o{number}" for number in range(6)]
    await subject.start([instance(name) for name in reversed(names)])
    await subject.log.write(
        [
            tail("o0", Started(), Ended("completed")),
            tail("o1", Started(), UndoDecided("take", "no", "")),
            tail("o2", Started(), Parked("stuck")),
        ]
    )
    assert list(await subject.log.unfinished("", 10)) == ["o1", "o3", "o4", "o5"]
    assert list(await subject.log.unfinished("", 2)) == ["o1", "o3"]
    assert list(await subject.log.unfinished("o3", 2)) == ["o4", "o5"]
    assert list(await subject.log.unfinished("o5", 2)) == []


async def test_a_parked_saga_that_is_resumed_is_unfinished_again(subject: Subject) -> None:
    await subject.start([instance()])
    await subject.log.write([tail("o1", Started(), Parked("stuck"))])
    assert list(await subject.log.unfinished("", 10)) == []
    await subject.log.write([tail("o1", Resumed("ops", "fixed"), after=2)])
    assert list(await subject.log.unfinished("", 10)) == ["o1"]


async def test_a_saga_that_is_resumed_on_its_way_back_is_still_on_its_way_back(subject: Subject) -> None:
    await subject.start([instance("o1"), instance("o2")])
    await subject.log.write([tail("o1", Started(), UndoDecided("take", "no", ""), Parked("stuck"))])
    await subject.log.write([tail("o2", Started(), Parked("stuck"))])
    resumed = Resumed("ops", "fixed")
    await subject.log.write([tail("o1", resumed, after=3), tail("o2", resumed, after=2)])
    found = await subject.log.load(["o1", "o2"])
    assert {name: one.status for name, one in found.items()} == {"o1": UNDOING, "o2": RUNNING}


async def test_of_two_operators_one_finds_out(subject: Subject) -> None:
    await subject.start([instance()])
    await subject.log.write([tail("o1", Started(), Parked("stuck"))])
    assert not await subject.log.write([tail("o1", Resumed("ann", "fixed"), after=2)])
    assert set(await subject.log.write([tail("o1", EndForced("bob", "enough"), after=2)])) == {"o1"}
    assert (await subject.log.load(["o1"]))["o1"].status == RUNNING


async def test_a_forced_end_has_an_outcome(database: Database) -> None:
    log = PostgresSagaLog(database, {"checkout": Body}, SystemClock())
    await _starter(database)([instance()])
    await log.write([tail("o1", Started(), Parked("stuck"), EndForced("ops", "enough"))])
    async with database.read() as connection:
        row = (await connection.execute(text("SELECT status, outcome, parked_reason FROM sagas"))).one()
    assert tuple(row) == ("ended", "forced", "")


async def test_one_at_a_time_holds_the_right_to_run_sagas(subject: Subject) -> None:
    entered = asyncio.Event()

    async def next_one() -> None:
        async with subject.log.exclusive() as hold:
            entered.set()
            await hold.check()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        async with subject.log.exclusive() as hold:
            await hold.check()
            group.create_task(next_one())
            assert list(await subject.log.unfinished("", 10)) == []
            assert not entered.is_set()
        await entered.wait()


async def test_who_waits_for_the_right_may_stop_waiting(subject: Subject) -> None:
    async with asyncio.timeout(20), subject.log.exclusive(), asyncio.TaskGroup() as group:
        waiting = group.create_task(_hold_for_ever(subject.log))
        await subject.log.unfinished("", 10)
        waiting.cancel()
    async with asyncio.timeout(20), subject.log.exclusive() as hold:
        await hold.check()


async def _hold_for_ever(log: SagaLog) -> None:
    async with log.exclusive():
        await asyncio.Event().wait()


async def test_two_writers_at_once_do_not_wait_for_each_other_for_ever(database: Database) -> None:
    """Somebody keeps both waiting at the same saga, and they had come to it from opposite ends."""
    log = PostgresSagaLog(database, {"checkout": Body}, SystemClock())
    names = [f"o{number:02}" for number in range(50)]
    await _starter(database)([instance(name) for name in names])
    mine = [tail(name, Started(), TakenUp("mine")) for name in names]
    other = [tail(name, Started(), TakenUp("other")) for name in reversed(names)]
    async with asyncio.timeout(20), asyncio.TaskGroup() as group, database.transaction() as connection:
        await connection.execute(text("INSERT INTO saga_log VALUES ('o25', 1, now(), '{}')"))
        writers = [group.create_task(log.write(tails)) for tails in (mine, other)]
        while await _waiting(database) < len(writers):
            pass
        await connection.rollback()
    lost = [set(writer.result()) for writer in writers]
    assert not lost[0] & lost[1] and lost[0] | lost[1] == set(names)


async def _waiting(database: Database) -> int:
    async with database.read() as connection:
        return int(await connection.scalar(WAITING) or 0)


async def test_sagas_start_only_if_their_transaction_commits(database: Database) -> None:
    async def start_and_fail() -> None:
        async with database.transaction() as connection:
            await start_rows(connection, [instance()])
            raise Unavailable("changed my mind")

    with pytest.raises(Unavailable):
        await start_and_fail()
    assert await PostgresSagaLog(database, {"checkout": Body}, SystemClock()).load(["o1"]) == {}


async def test_starting_no_saga_is_allowed(database: Database) -> None:
    async with database.transaction() as connection:
        await start_rows(connection, [])


async def test_the_right_is_lost_with_its_connection_and_found_again(database: Database) -> None:
    log = PostgresSagaLog(database, {"checkout": Body}, SystemClock())

    async def lose_the_connection() -> None:
        async with log.exclusive() as hold:
            await hold.check()
            async with database.read() as connection:
                await connection.execute(TERMINATE, {"pid": await connection.scalar(HOLDER)})
            await hold.check()

    with pytest.raises(Unavailable):
        await lose_the_connection()
    async with asyncio.timeout(20), log.exclusive() as hold:
        await hold.check()


async def test_who_waits_for_the_right_asks_again_from_time_to_time(database: Database) -> None:
    clock = ManualClock()
    log = PostgresSagaLog(database, {"checkout": Body}, clock)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        async with log.exclusive():
            waiting = group.create_task(_hold_for_ever(log))
            for _ in range(3):
                await database.ping()
        while not await _right_is_held(database):
            clock.advance(1.0)
        waiting.cancel()


async def _right_is_held(database: Database) -> bool:
    async with database.read() as connection:
        return await connection.scalar(HOLDER) is not None


async def test_the_sweep_reads_an_index_and_not_the_table(database: Database, make_database: MakeDatabase) -> None:
    url = await make_database("saga-plan")
    connection = await asyncpg.connect(url)
    try:
        for statement in SAGA_DDL:
            await connection.execute(statement)
        await connection.execute(
            """
            INSERT INTO sagas (saga_id, saga, version, status, input, traceparent, started_at, updated_at)
            SELECT 's' || n, 'checkout', 1, CASE n % 100 WHEN 0 THEN 'running' ELSE 'ended' END, '{}', '', now(), now()
              FROM generate_series(1, 5000) AS n
            """
        )
        await connection.execute("ANALYZE sagas")
        plan = await connection.fetch(
            "EXPLAIN SELECT saga_id FROM sagas WHERE status IN ('running', 'undoing') AND saga_id > '' "
            "ORDER BY saga_id LIMIT 500"
        )
    finally:
        await connection.close()
    assert "sagas_unfinished" in "\n".join(row[0] for row in plan)
