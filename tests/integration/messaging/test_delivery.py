"""From the outbox through Redis to an effect: once each, in order, whatever is lost, repeated or poisoned."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import asyncpg
import pytest
import pytest_asyncio
import redis.asyncio as redis_client
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import InDoubt, Unavailable
from libs.messaging.consumer import INBOX_DDL, Consumer
from libs.messaging.event import Delivery, OutgoingEvent
from libs.messaging.outbox import OUTBOX_DDL, Outbox
from libs.messaging.redis_streams import RedisStreamsBroker
from libs.messaging.relay import UPKEEP_SECONDS, Relay
from libs.runtime.clock import Ids, ManualClock, SystemClock
from libs.runtime.database import Database
from libs.runtime.horizon import HORIZON_DDL
from tests.conftest import MakeDatabase

TOPIC = "orders"
EFFECT = text("INSERT INTO effects (event_id, subject) VALUES (:event_id, :subject)")


class ImpatientClock(ManualClock):
    """Time passes as fast as it is asked to."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)


class Post:
    """A sender's outbox, a broker, and a receiver whose effects are rows."""

    def __init__(self, url: str, redis_url: str) -> None:
        self.url, self.redis_url = url, redis_url
        self.clock = ImpatientClock()
        self.database = Database.open(url, 4, "test")
        self.broker = RedisStreamsBroker.open(redis_url)
        self.ids = Ids(SystemClock())
        self.poison: set[str] = set()
        self.relay = self.new_relay()
        self.consumer = self.new_consumer()

    def new_relay(self) -> Relay:
        return Relay(self.database, self.broker, "/sender", [TOPIC], self.clock, self.ids)

    def new_consumer(self, name: str = "local") -> Consumer:
        return Consumer(self.database, self.broker, "receiver", [TOPIC], self.apply, self.clock, name=name)

    async def apply(self, connection: AsyncConnection, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.id in self.poison:
                raise ValueError(f"cannot digest {delivery.id}")
            await connection.execute(EFFECT, {"event_id": delivery.id, "subject": delivery.subject})

    async def send(self, *events: tuple[str, str]) -> None:
        """Events as (id, subject), in one transaction."""
        now = datetime(2026, 1, 31, tzinfo=UTC)
        outgoing = [OutgoingEvent(id_, TOPIC, "Test", "/sender", subject, now, "", b"data") for id_, subject in events]
        async with self.database.transaction() as connection:
            await Outbox(connection).add(outgoing)

    async def publish(self) -> None:
        while await self.relay.step():
            pass

    async def consume(self) -> None:
        while await self.consumer.step(0.01):
            pass

    async def effects(self) -> list[str]:
        return [str(row[0]) for row in await self.rows("SELECT event_id FROM effects ORDER BY number")]

    async def rows(self, query: str) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url)
        found = await connection.fetch(query)
        await connection.close()
        return list(found)

    async def lose_everything(self) -> None:
        client = redis_client.Redis.from_url(self.redis_url)
        await client.flushdb()
        await client.aclose()
        # The relay looks now and then whether the broker still knows it.
        self.clock.advance(UPKEEP_SECONDS)

    async def close(self) -> None:
        await self.broker.close()
        await self.database.close()


@pytest_asyncio.fixture
async def post(make_database: MakeDatabase, clean_redis: str) -> AsyncIterator[Post]:
    url = await make_database("post")
    connection = await asyncpg.connect(url)
    effects = "CREATE TABLE effects (number bigint GENERATED ALWAYS AS IDENTITY, event_id text, subject text)"
    for statement in (*HORIZON_DDL, *OUTBOX_DDL, *INBOX_DDL, effects):
        await connection.execute(statement)
    await connection.close()
    post = Post(url, clean_redis)
    yield post
    await post.close()


async def test_what_was_written_down_arrives_once_and_in_order(post: Post) -> None:
    await post.send(*((f"e{number:02}", "ord_1") for number in range(20)))
    await post.publish()
    await post.consume()
    assert await post.effects() == [f"e{number:02}" for number in range(20)]


async def test_a_relay_that_forgot_how_far_it_was_publishes_again_and_nothing_happens_twice(post: Post) -> None:
    await post.send(("e1", "ord_1"), ("e2", "ord_2"))
    await post.publish()
    await post.rows("UPDATE outbox_cursor SET transaction_id = '0', sequence = 0")
    post.relay = post.new_relay()
    await post.publish()
    await post.consume()
    assert Counter(await post.effects()) == Counter({"e1": 1, "e2": 1})


async def test_a_broker_that_lost_everything_is_told_again(post: Post) -> None:
    await post.send(("e1", "ord_1"), ("e2", "ord_2"))
    await post.publish()
    await post.consume()
    await post.send(("e3", "ord_1"))
    await post.publish()
    await post.lose_everything()
    await post.send(("e4", "ord_1"))
    await post.publish()
    await post.consume()
    assert Counter(await post.effects()) == Counter({"e1": 1, "e2": 1, "e3": 1, "e4": 1})
    assert [one for one in await post.effects() if one in {"e1", "e3", "e4"}] == ["e1", "e3", "e4"]


async def test_what_everybody_has_applied_is_forgotten(post: Post) -> None:
    await post.send(("e1", "ord_1"))
    await post.publish()
    await post.consume()
    for _ in range(3):
        post.clock.advance(UPKEEP_SECONDS)
        await post.relay.step()
    assert await post.rows("SELECT * FROM outbox") == []


async def test_what_nobody_has_applied_is_kept(post: Post) -> None:
    await post.send(("e1", "ord_1"))
    await post.publish()
    for _ in range(3):
        post.clock.advance(UPKEEP_SECONDS)
        await post.relay.step()
    assert len(await post.rows("SELECT * FROM outbox")) == 1


async def test_a_consumer_that_died_before_it_acknowledged_is_carried_on(post: Post) -> None:
    await post.send(("e1", "ord_1"), ("e2", "ord_1"))
    await post.publish()
    await post.consumer.step(0.01)  # creates the group and takes what is there
    await post.send(("e3", "ord_1"))
    await post.publish()
    # Read and never acknowledged: its process died.
    taken = await post.broker.read("receiver", "local", [TOPIC], 10, 0.01)
    assert [delivery.id for delivery in taken] == ["e3"]
    post.consumer = post.new_consumer()
    await post.consume()
    assert await post.effects() == ["e1", "e2", "e3"]


@pytest.mark.parametrize("poisoned", ["e1", "e2"])
async def test_a_poisoned_message_is_parked_and_blocks_only_its_own_subject(post: Post, poisoned: str) -> None:
    post.poison = {poisoned}
    await post.send(("e1", "ord_1"), ("e2", "ord_1"), ("e3", "ord_2"), ("e4", "ord_1"))
    await post.publish()
    await post.consume()
    behind = {"e1": ["e1", "e2", "e4"], "e2": ["e2", "e4"]}[poisoned]
    parked = [row[0] for row in await post.rows("SELECT event_id FROM parked_messages ORDER BY number")]
    assert parked == behind
    assert sorted(await post.effects()) == sorted({"e1", "e2", "e3", "e4"} - set(behind))
    await post.send(("e5", "ord_1"), ("e6", "ord_2"))
    await post.publish()
    await post.consume()
    assert "e6" in await post.effects()
    assert "e5" not in await post.effects()


async def test_a_database_that_is_away_parks_nothing(post: Post) -> None:
    await post.send(("e1", "ord_1"))
    await post.publish()
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test'"
    await post.rows(kill)
    consumed = False
    for _ in range(20):
        try:
            await post.consume()
        except (Unavailable, InDoubt):
            post.consumer = post.new_consumer()
            continue
        consumed = True
        break
    assert consumed
    assert await post.effects() == ["e1"]
    assert await post.rows("SELECT * FROM parked_messages") == []
