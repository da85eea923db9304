"""What the port Processor promises, held by the HTTP client against the real processor, and by the tests' own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest
import pytest_asyncio

from libs.kernel.errors import InDoubt, Unavailable
from libs.kernel.money import Money
from services.payment.adapters.processor import ANSWER_BYTES_MAX, HttpProcessor
from services.payment.domain import Charged, Declined, GivenUp, Payment, Status, Verdict, payment_id_of
from services.payment.ports import Processor
from services.psp.domain import Conduct, conduct
from tests.conftest import MakeDatabase
from tests.integration.edge.serving import closed_port
from tests.integration.payment.till import PRICE, ScriptedProcessor
from tests.integration.psp.serving import MIGRATIONS, serve_psp

SECONDS = 5.0
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def payment(transaction_id: str = "t1", card: str = "tok_ok") -> Payment:
    return Payment(
        payment_id=payment_id_of(transaction_id, "charge"),
        transaction_id=transaction_id,
        step="charge",
        account_id="ada",
        amount=PRICE,
        card_token=card,
        status=Status.CHARGING,
        created_at=datetime(2026, 1, 31, tzinfo=UTC),
    )


@asynccontextmanager
async def calling(url: str, *, seconds: float = SECONDS, in_flight_max: int = 8) -> AsyncIterator[HttpProcessor]:
    processor = HttpProcessor(url, seconds, in_flight_max)
    try:
        yield processor
    finally:
        await processor.close()


@pytest_asyncio.fixture
async def psp(make_database: MakeDatabase) -> AsyncIterator[httpx.AsyncClient]:
    async with serve_psp(await make_database("psp", MIGRATIONS)) as client:
        yield client


@pytest_asyncio.fixture(params=["http", "scripted"])
async def processor(request: pytest.FixtureRequest, psp: httpx.AsyncClient) -> AsyncIterator[Processor]:
    if request.param == "scripted":
        yield ScriptedProcessor()
    else:
        async with calling(str(psp.base_url)) as over_http:
            yield over_http


# What both promise.


async def test_asking_twice_charges_once_and_says_the_same(processor: Processor) -> None:
    verdict = await processor.charge(payment())
    assert isinstance(verdict, Charged)
    assert await processor.charge(payment()) == verdict
    assert await processor.charge(payment("t2")) != verdict


async def test_a_declined_card_is_a_verdict_with_a_reason(processor: Processor) -> None:
    for _ in range(2):
        verdict = await processor.charge(payment(card="tok_declined"))
        assert verdict == Declined("card-declined", "the issuer declined the card")


async def test_asking_twice_refunds_once(processor: Processor) -> None:
    verdict = await processor.charge(payment())
    assert isinstance(verdict, Charged)
    charged = replace(payment(), status=Status.REFUNDING, processor_reference=verdict.reference)
    await processor.refund(charged)
    await processor.refund(charged)
    assert await processor.charge(payment()) == verdict


async def authorised(processor: Processor, transaction_id: str = "t1") -> Payment:
    """A payment as it is once its authorisation is known."""
    wanted = replace(payment(transaction_id), status=Status.AUTHORISING)
    verdict = await processor.authorise(wanted)
    assert isinstance(verdict, Charged)
    return replace(wanted, status=Status.AUTHORISED, processor_reference=verdict.reference)


async def test_what_is_authorised_twice_is_captured_once_and_can_be_refunded(processor: Processor) -> None:
    held = await authorised(processor)
    assert await authorised(processor) == held
    for _ in range(2):
        await processor.capture(held)
    assert await authorised(processor) == held
    await processor.refund(replace(held, status=Status.REFUNDING))


async def test_a_declined_card_is_not_authorised(processor: Processor) -> None:
    for _ in range(2):
        verdict = await processor.authorise(replace(payment(card="tok_declined"), status=Status.AUTHORISING))
        assert verdict == Declined("card-declined", "the issuer declined the card")


async def test_what_was_voided_is_no_authorisation_any_more(processor: Processor) -> None:
    held = await authorised(processor)
    for _ in range(2):
        await processor.void(held)
    assert await processor.authorise(held) == GivenUp()


async def test_an_authorisation_that_arrives_after_its_void_is_none(processor: Processor) -> None:
    late = replace(payment(), status=Status.AUTHORISING)
    await processor.void(late)
    assert await processor.authorise(late) == GivenUp()


# What the cards do to the one over HTTP.


async def insistent(processor: HttpProcessor, wanted: Payment) -> tuple[list[str], Verdict]:
    """The errors on the way to a verdict."""
    errors: list[str] = []
    while True:
        try:
            return errors, await processor.charge(wanted)
        except (Unavailable, InDoubt) as error:
            errors.append(type(error).__name__)


def transaction_that(first: Conduct) -> str:
    """One whose flaky card begins like this, and then drops the connection or not, as it likes."""
    names = (f"t{number}" for number in range(99))
    return next(name for name in names if conduct("tok_flaky", payment_id_of(name, "charge"), 0) is first)


@pytest.mark.parametrize(
    ("card", "errors"),
    [
        ("tok_ok", []),
        ("tok_slow", []),
        ("tok_lost_response", ["InDoubt"]),
        ("tok_rate_limited", ["Unavailable", "Unavailable"]),
    ],
)
async def test_a_card_that_misbehaves_is_charged_in_the_end(
    psp: httpx.AsyncClient, card: str, errors: list[str]
) -> None:
    async with calling(str(psp.base_url)) as processor:
        met, verdict = await insistent(processor, payment(card=card))
    assert (met, type(verdict)) == (errors, Charged)
    assert len((await psp.get("/v1/charges")).json()["charges"]) == 1


@pytest.mark.parametrize(("first", "error"), [(Conduct.FAIL, "Unavailable"), (Conduct.HANG_UP, "InDoubt")])
async def test_only_an_honest_failure_promises_that_nothing_happened(
    psp: httpx.AsyncClient, first: Conduct, error: str
) -> None:
    async with calling(str(psp.base_url)) as processor:
        met, verdict = await insistent(processor, payment(transaction_that(first), "tok_flaky"))
    assert (met[0], type(verdict)) == (error, Charged)


async def test_a_card_that_does_not_exist_is_declined_for_good(psp: httpx.AsyncClient) -> None:
    async with calling(str(psp.base_url)) as processor:
        verdict = await processor.charge(payment(card="tok_nope"))
    assert isinstance(verdict, Declined)
    assert verdict.code == "unknown-card"


async def test_a_key_that_the_processor_knows_otherwise_stays_in_doubt(psp: httpx.AsyncClient) -> None:
    async with calling(str(psp.base_url)) as processor:
        await processor.charge(payment())
        with pytest.raises(InDoubt, match="422"):
            await processor.charge(replace(payment(), amount=Money(1, "EUR")))


async def test_what_was_captured_cannot_be_voided_nor_what_was_voided_captured(psp: httpx.AsyncClient) -> None:
    async with calling(str(psp.base_url)) as processor:
        one, other = await authorised(processor), await authorised(processor, "t2")
        await processor.capture(one)
        await processor.void(other)
        with pytest.raises(InDoubt, match="409"):
            await processor.void(one)
        with pytest.raises(InDoubt, match="409"):
            await processor.capture(other)
    statuses = [charge["status"] for charge in (await psp.get("/v1/charges")).json()["charges"]]
    assert statuses == ["captured", "voided"]


async def test_what_cannot_be_refunded_stays_in_doubt(psp: httpx.AsyncClient) -> None:
    async with calling(str(psp.base_url)) as processor:
        with pytest.raises(InDoubt, match="404"):
            await processor.refund(replace(payment(), processor_reference="ch_none"))


# What it makes of answers that the real one does not give.


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[str]:
    """A server that reads a request and then does this with its connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        await answer(writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def saying(status: str, body: str = "", *headers: str) -> Answer:
    async def say(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", body]
        writer.write("\r\n".join(lines).encode())
        await writer.drain()

    return say


async def charge_at(url: str, **limits: float) -> Verdict:
    async with calling(url, seconds=limits.get("seconds", SECONDS)) as processor:
        return await processor.charge(payment())


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ((), 0.2),
        (("Retry-After: 7",), 7.0),
        (("Retry-After: 86400",), 60.0),
        (("Retry-After: Fri, 31 Jan 2026 00:00:00 GMT",), 0.2),
        (("Retry-After: -1",), 0.2),
    ],
)
async def test_a_busy_processor_did_nothing_and_says_when_to_come_back(
    status: str, headers: tuple[str, ...], seconds: float
) -> None:
    async with answering(saying(status, "", *headers)) as url:
        with pytest.raises(Unavailable) as busy:
            await charge_at(url)
    assert busy.value.retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("status", "body"),
    [
        ("500 Internal Server Error", "oops"),
        ("502 Bad Gateway", "<html>"),
        ("504 Gateway Timeout", ""),
        ("404 Not Found", "{}"),
        ("302 Found", ""),
        ("200 OK", "{}"),
        ("201 Created", "not JSON"),
        ("201 Created", '{"charge_id": 7}'),
        ("422 Unprocessable", '{"code": "idempotency-key-reused"}'),
    ],
)
async def test_an_answer_that_is_none_leaves_it_open(status: str, body: str) -> None:
    async with answering(saying(status, body)) as url:
        with pytest.raises(InDoubt, match=status[:3]):
            await charge_at(url)


@pytest.mark.parametrize("body", ["", "not JSON", '{"code": ""}'])
async def test_a_decline_without_a_reason_is_a_decline(body: str) -> None:
    async with answering(saying("402 Payment Required", body)) as url:
        verdict = await charge_at(url)
    assert isinstance(verdict, Declined)
    assert verdict.code == "card-declined"


async def test_an_answer_that_goes_on_and_on_is_not_read() -> None:
    async with answering(saying("201 Created", " " * (ANSWER_BYTES_MAX + 1))) as url:
        with pytest.raises(InDoubt, match="too long"):
            await charge_at(url)


async def test_a_processor_that_is_not_there_did_nothing() -> None:
    with closed_port() as port, pytest.raises(Unavailable) as gone:
        await charge_at(f"http://127.0.0.1:{port}")
    assert gone.value.code == "processor-unreachable"


async def test_a_connection_lost_after_the_request_leaves_it_open() -> None:
    async def say_nothing(writer: asyncio.StreamWriter) -> None:
        pass

    async def break_off(writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{"charge_id": "ch_1"')
        await writer.drain()

    for answer in (say_nothing, break_off):
        async with answering(answer) as url:
            with pytest.raises(InDoubt) as lost:
                await charge_at(url)
        assert lost.value.code == "processor-answer-lost"


async def test_an_answer_that_takes_too_long_leaves_it_open() -> None:
    enough = asyncio.Event()

    async def wait(writer: asyncio.StreamWriter) -> None:
        await enough.wait()

    async with answering(wait) as url:
        with pytest.raises(InDoubt):
            await charge_at(url, seconds=0.05)
        enough.set()


async def test_only_so_many_calls_are_under_way_at_once() -> None:
    under_way = most = 0
    full, go_on = asyncio.Event(), asyncio.Event()

    async def count(writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 2:
            full.set()
        await go_on.wait()
        under_way -= 1
        await saying("201 Created", '{"charge_id": "ch_1"}', "Connection: close")(writer)

    async with answering(count) as url, calling(url, in_flight_max=2) as processor, asyncio.TaskGroup() as group:
        calls = [group.create_task(processor.charge(payment(f"t{number}"))) for number in range(6)]
        await full.wait()
        go_on.set()
    assert {call.result() for call in calls} == {Charged("ch_1")}
    assert most == 2
