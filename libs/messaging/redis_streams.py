"""The broker on Redis Streams: a few streams a topic, an event's subject decides which."""

import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError, WatchError
from redis.exceptions import TimeoutError as RedisTimeoutError

from libs.kernel.errors import Invalid, Unavailable
from libs.messaging.broker import Mark, StreamsLost
from libs.messaging.event import Delivery, OutgoingEvent
from libs.runtime.position import Position

# Streams a topic: the most consumers of one group that can share it with order kept.
STREAMS_PER_TOPIC = 4
# redis-py gives up on a socket after 5 s unless told otherwise, also in the middle of a blocking read.
SOCKET_SECONDS = 15.0
BLOCK_SECONDS_MAX = 10.0
CONNECTIONS_MAX = 8
# A delivery that its consumer has held this long without acknowledging belongs to a dead one.
ABANDONED_SECONDS = 30.0

_ATTRIBUTES = ("id", "type", "source", "subject", "time", "traceparent")


class RedisStreamsBroker:
    """Publishes to and reads from Redis Streams. Raises Unavailable when Redis cannot be reached or is full."""

    def __init__(self, redis: Redis, abandoned_seconds: float = ABANDONED_SECONDS) -> None:
        self._redis = redis
        self._abandoned_ms = int(abandoned_seconds * 1000)

    @classmethod
    def open(cls, url: str, abandoned_seconds: float = ABANDONED_SECONDS) -> "RedisStreamsBroker":
        """Opens nothing yet: the first use connects."""
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            socket_timeout=SOCKET_SECONDS,
            socket_connect_timeout=3.0,
            # The client must not repeat a read whose answer was lost: it would get what comes behind it, out of order.
            retry=Retry(NoBackoff(), 0),
        )
        return cls(Redis(connection_pool=pool), abandoned_seconds)

    async def close(self) -> None:
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    async def ping(self) -> None:
        async with _mapped():
            await self._redis.ping()

    async def publish(self, source: str, after: Mark, upto: Position, events: Sequence[OutgoingEvent]) -> None:
        key = _mark_key(source)
        async with _mapped(), self._redis.pipeline(transaction=True) as pipeline:
            # Losing the data changes the watched key, so nothing is ever added behind a loss unnoticed.
            await pipeline.watch(key)
            found = _mark(await pipeline.get(key))
            if found is None or not found.covers(after):
                raise StreamsLost(source)
            pipeline.multi()  # type: ignore[no-untyped-call]  # redis-py left it out
            for event in events:
                pipeline.xadd(stream_of(event.topic, event.subject), _fields(event))
            pipeline.set(key, _mark_text(Mark(found.epoch, max(found.position, upto))))
            try:
                await pipeline.execute()
            except WatchError:
                raise StreamsLost(source) from None

    async def begin(self, source: str, mark: Mark) -> None:
        async with _mapped():
            await self._redis.set(_mark_key(source), _mark_text(mark))

    async def mark(self, source: str) -> Mark | None:
        async with _mapped():
            return _mark(await self._redis.get(_mark_key(source)))

    async def ends(self, topics: Sequence[str]) -> Mapping[str, str]:
        names = _streams(topics)
        async with _mapped(), self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.xrevrange(name, count=1)
            newest = await pipeline.execute()
        return {name: _text(entries[0][0]) for name, entries in zip(names, newest, strict=True) if entries}

    async def consumed(self, ends: Mapping[str, str]) -> bool:
        async with _mapped():
            return all([await self._stream_consumed(stream, end) for stream, end in ends.items()])

    async def _stream_consumed(self, stream: str, end: str) -> bool:
        try:
            groups = await self._redis.xinfo_groups(stream)
        except ResponseError as error:
            if "no such key" in str(error):
                raise StreamsLost(stream) from error
            raise
        if not groups:
            return False
        for group in groups:
            if _entry_order(group["last-delivered-id"].decode()) < _entry_order(end):
                return False
            if group["pending"]:
                summary = await self._redis.xpending(stream, group["name"])
                if summary["min"] and _entry_order(summary["min"].decode()) <= _entry_order(end):
                    return False
        return True

    async def trim(self, ends: Mapping[str, str]) -> None:
        async with _mapped(), self._redis.pipeline(transaction=False) as pipeline:
            for stream, end in ends.items():
                pipeline.xtrim(stream, minid=end, approximate=True)
            await pipeline.execute()

    async def read(
        self, group: str, consumer: str, topics: Sequence[str], count: int, seconds: float
    ) -> Sequence[Delivery]:
        block = int(min(seconds, BLOCK_SECONDS_MAX) * 1000)
        wanted: dict[Any, Any] = dict.fromkeys(_streams(topics), ">")
        async with _mapped():
            answer = await self._in_group(
                group, topics, lambda: self._redis.xreadgroup(group, consumer, wanted, count=count, block=block)
            )
        return _deliveries(answer)

    async def resume(self, group: str, consumer: str, topics: Sequence[str], count: int) -> Sequence[Delivery]:
        wanted: dict[Any, Any] = dict.fromkeys(_streams(topics), "0")
        async with _mapped():
            await self._claim_abandoned(group, consumer, topics, count)
            answer = await self._in_group(
                group, topics, lambda: self._redis.xreadgroup(group, consumer, wanted, count=count)
            )
        return _deliveries(answer)

    async def _claim_abandoned(self, group: str, consumer: str, topics: Sequence[str], count: int) -> None:
        for stream in _streams(topics):
            await self._in_group(
                group,
                topics,
                lambda name=stream: self._redis.xautoclaim(
                    name, group, consumer, self._abandoned_ms, count=count, justid=True
                ),
            )

    async def acknowledge(self, group: str, deliveries: Sequence[Delivery]) -> None:
        entries: dict[str, list[str]] = {}
        for delivery in deliveries:
            entries.setdefault(delivery.stream, []).append(delivery.entry)
        async with _mapped(), self._redis.pipeline(transaction=False) as pipeline:
            for stream, ids in entries.items():
                pipeline.xack(stream, group, *ids)
            # A stream or group that was lost meanwhile has nothing to acknowledge.
            await pipeline.execute(raise_on_error=False)

    async def _in_group(self, group: str, topics: Sequence[str], work: Any) -> Any:
        """The work's answer; a group that does not exist, or was lost, is created from the streams' beginning."""
        try:
            return await work()
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
        for stream in _streams(topics):
            try:
                await self._redis.xgroup_create(stream, group, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
        return await work()


@asynccontextmanager
async def _mapped() -> AsyncIterator[None]:
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise Unavailable("the broker cannot be reached", code="broker-unreachable") from error
    except RedisError as error:
        raise Unavailable(f"the broker refused: {error}", code="broker-refused") from error


def stream_of(topic: str, subject: str) -> str:
    """The stream that carries everything about this subject."""
    return f"dockyard:{topic}:{zlib.crc32(subject.encode()) % STREAMS_PER_TOPIC}"


def _streams(topics: Sequence[str]) -> list[str]:
    return [f"dockyard:{topic}:{number}" for topic in topics for number in range(STREAMS_PER_TOPIC)]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _readable(value: bytes | str) -> str:
    """Text that a database takes, whatever somebody else put into the stream: it must be possible to park it."""
    text = value if isinstance(value, str) else value.decode(errors="replace")
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _mark_key(source: str) -> str:
    return f"dockyard:mark:{source}"


def _mark_text(mark: Mark) -> str:
    return f"{mark.epoch} {mark.position}"


def _mark(value: bytes | str | None) -> Mark | None:
    if value is None:
        return None
    epoch, _, position = _readable(value).partition(" ")
    try:
        return Mark(epoch, Position.parse(position))
    except Invalid:
        return None  # not ours: as good as lost


def _entry_order(entry: str) -> tuple[int, int]:
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number or 0)


def _fields(event: OutgoingEvent) -> dict[Any, Any]:
    return {
        "specversion": "1.0",
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        "time": event.time.isoformat(),
        "traceparent": event.traceparent,
        "data": event.data,
    }


def _deliveries(answer: Any) -> list[Delivery]:
    """redis-py answers a list of pairs in RESP2 and a mapping in RESP3."""
    streams = answer.items() if isinstance(answer, dict) else answer or ()
    return [
        _delivery(stream.decode(), entry.decode(), fields)
        for stream, entries in streams
        for entry, fields in _flat(entries)
        if fields
    ]


def _flat(entries: Any) -> Any:
    return (
        entries[0]
        if entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], list | tuple)
        else entries
    )


def _delivery(stream: str, entry: str, fields: Mapping[bytes, bytes]) -> Delivery:
    topic = stream.split(":")[1]
    attributes = {name: _readable(fields.get(name.encode(), b"")) for name in _ATTRIBUTES}
    return Delivery(**attributes, topic=topic, data=fields.get(b"data", b""), stream=stream, entry=entry)
