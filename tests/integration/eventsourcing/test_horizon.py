"""Events are read in the order of commits: nothing is skipped, and no other database holds a reader back."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count

import asyncpg
import pytest_asyncio

from libs.eventsourcing.store import EVENTS_DDL, Append, Appended, NewEvent, PostgresEventStore, WrongVersion
from libs.runtime.database import Database
from libs.runtime.horizon import HORIZON_DDL
from libs.runtime.position import START, Position
from tests.conftest import MakeDatabase

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest_asyncio.fixture
async def urls(make_database: MakeDatabase) -> tuple[str, str]:
    """Ours, and another on the same server."""
    ours, other = await make_database("ours"), await make_database("other")
    for url in (ours, other):
        connection = await asyncpg.connect(url)
        for statement in (*HORIZON_DDL, *EVENTS_DDL):
            await connection.execute(statement)
        await connection.close()
    return ours, other


@pytest_asyncio.fixture
async def database(urls: tuple[str, str]) -> AsyncIterator[Database]:
    database = Database.open(urls[0], 4, "test")
    yield database
    await database.close()


async def placed(database: Database, stream_id: str) -> None:
    async with database.transaction() as connection:
        await PostgresEventStore(connection).append([Append(stream_id, 0, [NewEvent("Placed", b"{}", NOON)])])


async def seen(database: Database, after: Position = START) -> list[str]:
    async with database.read() as connection:
        return [event.stream_id for event in await PostgresEventStore(connection).read_after(after, 100)]


@asynccontextmanager
async def open_transaction(url: str, stream_id: str) -> AsyncIterator[asyncpg.Connection]:
    """A writer that takes its time: its row is written and not committed while the block runs."""
    connection = await asyncpg.connect(url)
    await connection.execute("BEGIN")
    await connection.execute(
        "INSERT INTO events (stream_id, version, type, data, traceparent, recorded_at)"
        " VALUES ($1, 1, 'Placed', '{}', '', now())",
        stream_id,
    )
    yield connection
    await connection.close()


async def test_a_slower_writer_of_ours_holds_the_reader_back_and_is_never_skipped(
    urls: tuple[str, str], database: Database
) -> None:
    await placed(database, "early")
    async with open_transaction(urls[0], "slow") as slow:
        await placed(database, "quick")
        assert await seen(database) == ["early"]
        await slow.execute("COMMIT")
    assert await seen(database) == ["early", "slow", "quick"]


async def test_an_open_transaction_of_another_database_stalls_nothing(
    urls: tuple[str, str], database: Database
) -> None:
    async with open_transaction(urls[1], "elsewhere"):
        await placed(database, "quick")
        assert await seen(database) == ["quick"]


async def test_a_prepared_transaction_stalls_its_own_database_and_no_other(
    urls: tuple[str, str], database: Database
) -> None:
    for url, name, expected in ((urls[1], "theirs", ["first"]), (urls[0], "ours", ["first"])):
        async with open_transaction(url, f"prepared-{name}") as prepared:
            await prepared.execute(f"PREPARE TRANSACTION '{name}'")
            await placed(database, "first" if name == "theirs" else "second")
            assert await seen(database) == expected
            await prepared.execute(f"COMMIT PREPARED '{name}'")
    assert await seen(database) == ["first", "prepared-ours", "second"]


async def test_many_streams_are_appended_at_once_and_a_stale_one_refuses_itself_alone(database: Database) -> None:
    await placed(database, "a")
    event = NewEvent("Confirmed", b"{}", NOON)
    async with database.transaction() as connection:
        store = PostgresEventStore(connection)
        outcomes = await store.append(
            [Append("a", 1, [event, event]), Append("b", 0, [event]), Append("c", 5, [event])]
        )
        streams = await store.load(["a", "b", "c"])
    assert [type(outcome) for outcome in outcomes] == [Appended, Appended, WrongVersion]
    assert {name: [one.version for one in events] for name, events in streams.items()} == {"a": [1, 2, 3], "b": [1]}


async def test_a_stream_that_moved_on_is_not_appended_to(database: Database) -> None:
    await placed(database, "a")
    for version, expected in ((1, Appended), (1, WrongVersion), (0, WrongVersion), (2, Appended)):
        async with database.transaction() as connection:
            append = Append("a", version, [NewEvent("Confirmed", b"{}", NOON)])
            (outcome,) = await PostgresEventStore(connection).append([append])
        assert isinstance(outcome, expected)


async def test_a_reader_that_stops_anywhere_goes_on_behind_what_it_read(database: Database) -> None:
    for name in names():
        if name == "s-5":
            break
        await placed(database, name)
    async with database.read() as connection:
        two = await PostgresEventStore(connection).read_after(START, 2)
    assert [event.stream_id for event in two] == ["s-0", "s-1"]
    assert await seen(database, two[-1].position) == ["s-2", "s-3", "s-4"]


def names() -> Iterator[str]:
    return (f"s-{number}" for number in count())
