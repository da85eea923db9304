"""Closed-loop load: so many customers, each placing the next order when the last one has ended."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from dockyard.load.http import Answer, Connection, post
from dockyard.load.orders import Coordination, Drawn, unobtainable
from libs.kernel.errors import DockyardError, InDoubt, Invalid, Unavailable
from libs.runtime.clock import Clock, Ids

# An order that has not ended by then is asked for again under the same key.
WAIT_SECONDS = 20
TRIES_MAX = 60
RETRY_SECONDS = 0.25
NAIVE_NOT_ALLOWED = "naive-not-allowed"
SEEN = frozenset({200, 201, 202})
# Statuses that say "later": too many requests, still running, unavailable, timed out on the way.
LATER = frozenset({409, 429, 502, 503, 504})


class NoEnd(DockyardError):
    """The order is still pending, and its customer's patience has ended."""

    def __init__(self, order_id: str, seconds: float) -> None:
        super().__init__(f"{order_id} is still pending after {seconds:.0f} s", code="no-end")


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
    request = post(host, "/v1/orders", body, key=drawn.key, wait_seconds=wait_seconds(drawn))
    started = clock.monotonic()
    for tries in range(1, TRIES_MAX + 1):
        try:
            answer = await connection.send(request, WAIT_SECONDS + 5)
        except (Unavailable, InDoubt):
            await asyncio.sleep(RETRY_SECONDS)
            continue
        reply = _reply(answer)
        seconds = clock.monotonic() - started
        if answer.status in SEEN and reply.status != "pending":
            return Ended(drawn, reply.order_id, str(reply.status), reply.reason, seconds, tries)
        if answer.status not in SEEN | LATER:
            raise DockyardError(f"HTTP {answer.status} {reply.code}", code=reply.code)
        if answer.status in SEEN and out_of_patience(drawn, seconds):
            raise NoEnd(reply.order_id, seconds)
        if answer.status in LATER:
            await asyncio.sleep(RETRY_SECONDS)
    raise InDoubt(f"no end after {TRIES_MAX} tries")


async def check_allowed(host: str, port: int, coordination: str, clock: Clock) -> None:
    """Raises Invalid when the platform does not take orders of this style. Only the naive one can be refused.

    The order that is placed to find out is for nothing that exists: it is rejected before anybody is called.
    """
    if coordination != Coordination.NAIVE:
        return
    probe = unobtainable(Ids(clock).new("probe"), coordination)
    connection = Connection(host, port)
    try:
        await place_over_http(connection, host, probe, clock)
    except DockyardError as error:
        if error.code != NAIVE_NOT_ALLOWED:
            raise
        raise Invalid(
            "this platform refuses naive orders, because they lose money: "
            "start it with `dockyard up --allow-naive`, or let this command start one with --home",
            code=NAIVE_NOT_ALLOWED,
        ) from error
    finally:
        connection.close()


def wait_seconds(drawn: Drawn) -> int:
    """How long one request may wait for the order's end."""
    return min(WAIT_SECONDS, int(drawn.patience_seconds))


def out_of_patience(drawn: Drawn, seconds: float) -> bool:
    """Whether the customer stops asking after so long; an answer that comes a moment early is not asked for again."""
    return seconds + RETRY_SECONDS >= drawn.patience_seconds


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
