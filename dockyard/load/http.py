"""A lean HTTP/1.1 client for load: one request at a time on each kept-alive connection.

The load generator's own CPU counts in every figure it reports, so it spends as little as it can: requests are
prepared bytes and answers are read by httptools (the parser that uvicorn uses).
"""

import asyncio
from dataclasses import dataclass
from typing import cast

import httptools

from libs.kernel.errors import InDoubt, Unavailable

# A larger answer is not one of ours.
BODY_BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    location: str
    body: bytes


class _Exchange(asyncio.Protocol):
    """Feeds what arrives to the parser and completes the answer that is waited for."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Answer] | None = None
        self.transport: asyncio.Transport | None = None
        self._reset()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._bytes = 0
        self._location = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's, but keep their promises.
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(InDoubt(f"the answer is not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._fail(InDoubt("the connection was lost before the answer"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"location":
            self._location = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._bytes += len(body)
        if self._bytes > BODY_BYTES_MAX:
            self._fail(InDoubt("the answer is too large"))
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        answer, self.answer = self.answer, None
        status, keep = self._parser.get_status_code(), self._parser.should_keep_alive()
        result = Answer(status, self._location, b"".join(self._body))
        self._reset()
        if not keep and self.transport is not None:
            self.transport.close()
            self.transport = None
        if answer is not None and not answer.done():
            answer.set_result(result)

    def _fail(self, error: InDoubt) -> None:
        answer, self.answer = self.answer, None
        if answer is not None and not answer.done():
            answer.set_exception(error)
        if self.transport is not None:
            self.transport.abort()
            self.transport = None


class Connection:
    """One kept-alive connection; reconnects when the server closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._exchange: _Exchange | None = None

    async def send(self, request: bytes, timeout_seconds: float) -> Answer:
        """Sends one whole request. Raises Unavailable when nothing was sent, InDoubt when the answer was lost."""
        exchange = await self._open()
        assert exchange.transport is not None
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        exchange.answer = answer
        exchange.transport.write(request)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await answer
        except TimeoutError:
            self.close()
            raise InDoubt(f"no answer within {timeout_seconds} s") from None

    async def _open(self) -> _Exchange:
        if self._exchange is not None and self._exchange.transport is not None:
            return self._exchange
        try:
            _, self._exchange = await asyncio.get_running_loop().create_connection(_Exchange, self._host, self._port)
        except OSError as error:
            raise Unavailable(f"nobody listens on {self._host}:{self._port}") from error
        return self._exchange

    def close(self) -> None:
        if self._exchange is not None and self._exchange.transport is not None:
            self._exchange.transport.abort()
        self._exchange = None


def post(host: str, path: str, body: bytes, *, key: str, wait_seconds: int = 0) -> bytes:
    """A POST request as bytes, with its idempotency key and how long the answer may wait for the end."""
    prefer = f"Prefer: wait={wait_seconds}\r\n" if wait_seconds else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nIdempotency-Key: {key}\r\n"
        f"{prefer}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def get(host: str, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("ascii")
