"""Closed-loop load: so many customers, each placing the next order when the last one has ended."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from dockyard.load.http import Answer, Connection, post
from dockyard.load.orders import Drawn
from libs.kernel.errors import DockyardError, InDoubt, Unavailable
from libs.runtime.clock import Clock

# An order that has not ended by then is asked for again under the same key.
WAIT_SECONDS = 20
TRIES_MAX = 60
RETRY_SECONDS = 0.25
SEEN = frozenset({200, 201, 202})
# Statuses that say "later": too many requests, still running, unavailable, timed out on the way.
LATER = frozenset({409, 429, 502, 503, 504})


class Reply(msgspec.Struct, frozen=True):
    """As much of an order's representation, or of a problem, as the load looks at."""

    order_id: str = ""
    status: str | int = ""
    reason: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """One order from its first request to its end."""

    drawn: Drawn
    order_id: str
    status: str
    reason: str
    seconds: float
    tries: int


@dataclass(slots=True)
class Tally:
    """What came of the orders so far."""

    ended: list[Ended] = field(default_factory=list)
    failed: list[tuple[Drawn, str]] = field(default_factory=list)

    def outcomes(self) -> Counter[str]:
        """How many orders ended how: "confirmed", "rejected: card-declined", …"""
        return Counter(f"{one.status}: {one.reason}" if one.reason else one.status for one in self.ended)

    def latency_ms(self, quantile: float) -> float:
        """The latency below which this share of the orders ended, in milliseconds; 0 when there are none."""
        seconds = sorted(one.seconds for one in self.ended)
        return round(seconds[min(int(len(seconds) * quantile), len(seconds) - 1)] * 1000, 1) if seconds else 0.0


async def place_over_http(connection: Connection, host: str, drawn: Drawn, clock: Clock) -> Ended:
    """Places an order and waits for its end, asking again under the same key for as long as that makes sense."""
    body = msgspec.json.encode(drawn.body)
    request = post(host, "/v1/orders", body, key=drawn.key, wait_seconds=WAIT_SECONDS)
    started = clock.monotonic()
    for tries in range(1, TRIES_MAX + 1):
        try:
            answer = await connection.send(request, WAIT_SECONDS + 5)
        except (Unavailable, InDoubt):
            await asyncio.sleep(RETRY_SECONDS)
            continue
        reply = _reply(answer)
        if answer.status in SEEN and reply.status != "pending":
            seconds = clock.monotonic() - started
            return Ended(drawn, reply.order_id, str(reply.status), reply.reason, seconds, tries)
        if answer.status not in SEEN | LATER:
            raise DockyardError(f"HTTP {answer.status} {reply.code}", code=reply.code)
        if answer.status in LATER:
            await asyncio.sleep(RETRY_SECONDS)
    raise InDoubt(f"no end after {TRIES_MAX} tries")


def _reply(answer: Answer) -> Reply:
    try:
        return msgspec.json.decode(answer.body, type=Reply)
    except msgspec.DecodeError:
        return Reply()


async def closed_loop(
    host: str, port: int, orders: Iterator[Drawn], concurrency: int, until: float, clock: Clock, tally: Tally
) -> None:
    """Keeps `concurrency` orders under way until the clock's monotonic time `until`, then lets the last ones end."""

    async def customer() -> None:
        connection = Connection(host, port)
        try:
            while clock.monotonic() < until:
                drawn = next(orders)
                try:
                    tally.ended.append(await place_over_http(connection, host, drawn, clock))
                except DockyardError as error:
                    tally.failed.append((drawn, error.message))
        finally:
            connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(customer())
