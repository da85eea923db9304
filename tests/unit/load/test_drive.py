"""A customer waits for the end of an order, and knows how long that makes sense."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from dockyard.load.drive import NoEnd, check_allowed, place_over_http
from dockyard.load.http import Connection
from dockyard.load.orders import Coordination, Draw, Drawn, Lines
from libs.kernel.errors import Invalid
from libs.runtime.clock import ManualClock

HOST = "127.0.0.1"
Reply = tuple[int, dict[str, str]]


@asynccontextmanager
async def service(answer: Callable[[bytes], Reply]) -> AsyncIterator[int]:
    """An order service of a few lines; its port. `answer` gets each request's head."""

    ended: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(asyncio.Event())
        over = ended[-1]
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                status, reply = answer(head)
                body = msgspec.json.encode(reply)
                writer.write(b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            over.set()

    server = await asyncio.start_server(serve, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for over in ended:
            await over.wait()


def drawn(coordination: str) -> Drawn:
    return Draw(1, {}, Lines.ONE, "run", coordination).next()


async def placed(port: int, order: Drawn, clock: ManualClock) -> str:
    connection = Connection(HOST, port)
    try:
        return (await place_over_http(connection, HOST, order, clock)).status
    finally:
        connection.close()


async def test_a_naive_order_that_stays_pending_is_given_up_after_15_seconds() -> None:
    clock, asked = ManualClock(), []

    def pending(head: bytes) -> Reply:
        asked.append(head)
        clock.advance(14.9)
        return 202, {"order_id": "ord_1", "status": "pending"}

    async with service(pending) as port:
        with pytest.raises(NoEnd, match="ord_1 is still pending after 15 s"):
            await placed(port, drawn(Coordination.NAIVE), clock)
    assert len(asked) == 1
    assert b"Prefer: wait=15\r\n" in asked[0]


@pytest.mark.parametrize("style", [style for style in Coordination if style is not Coordination.NAIVE])
async def test_every_other_order_is_believed_to_end(style: Coordination) -> None:
    clock, replies = ManualClock(), iter(["pending"] * 9 + ["confirmed"])

    def at_last(_: bytes) -> Reply:
        clock.advance(20)
        return 200, {"order_id": "ord_1", "status": next(replies)}

    async with service(at_last) as port:
        assert await placed(port, drawn(style), clock) == "confirmed"


async def test_a_platform_that_refuses_naive_orders_says_how_to_start_one_that_does_not() -> None:
    async with service(lambda _: (400, {"code": "naive-not-allowed"})) as port:
        with pytest.raises(Invalid, match="dockyard up --allow-naive"):
            await check_allowed(HOST, port, Coordination.NAIVE, ManualClock())


async def test_a_platform_that_takes_naive_orders_is_asked_with_one_that_calls_nobody() -> None:
    async with service(lambda _: (201, {"order_id": "ord_1", "status": "rejected"})) as port:
        await check_allowed(HOST, port, Coordination.NAIVE, ManualClock())


async def test_only_the_naive_style_can_be_refused() -> None:
    nobody_listens = 1
    for style in set(Coordination) - {Coordination.NAIVE}:
        await check_allowed(HOST, nobody_listens, style, ManualClock())
