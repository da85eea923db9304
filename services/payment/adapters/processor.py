"""The card processor over HTTP.

The client is aiohttp's: with dozens of calls under way httpx's connection pool costs more than the order (ADR 0006).
"""

import asyncio

import aiohttp
import msgspec

from libs.kernel.errors import InDoubt, Unavailable
from libs.telemetry.tracing import current_traceparent
from services.payment.domain import Charged, Declined, GivenUp, Payment, Verdict

CREATED = frozenset({200, 201})
DECLINED = 402
UNPROCESSABLE = 422
# These promise that nothing happened.
BUSY = frozenset({429, 503})
# The one thing a processor may find wrong with a charge of ours that no repeat can change.
UNKNOWN_CARD = "unknown-card"
# What an authorisation is told whose void came first.
VOIDED = "charge-voided"
CONFLICT = 409
# Connections that nobody used for so long are closed.
IDLE_SECONDS = 30.0
CONNECT_SECONDS_MAX = 1.0
# A charge is 200 bytes, a problem 300.
ANSWER_BYTES_MAX = 64 * 1024
# A processor that asks for more patience is asked again after this; the caller has long been told to wait.
RETRY_AFTER_SECONDS_MAX = 60.0
RETRY_AFTER_SECONDS = 0.2


class _ChargeIn(msgspec.Struct, omit_defaults=True):
    amount_minor: int
    currency: str
    card_token: str
    reference: str
    capture: bool = True


class _ReversalIn(msgspec.Struct):
    key: str
    amount_minor: int
    currency: str
    reference: str


class _RefundIn(msgspec.Struct):
    amount_minor: int


class _Answer(msgspec.Struct):
    """As much of the processor's answers as we look at: a charge, or a problem (RFC 9457)."""

    http_status: int = 0
    charge_id: str = ""
    code: str = ""
    detail: str = ""
    retry_after_seconds: float = RETRY_AFTER_SECONDS


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Answer).decode


class HttpProcessor:
    """Everything under the payment's id, so that asking twice charges once."""

    def __init__(self, url: str, timeout_seconds: float, calls_in_flight_max: int) -> None:
        self._charges = f"{url.rstrip('/')}/v1/charges"
        self._voids = f"{url.rstrip('/')}/v1/voids"
        # Waiting for a turn is not part of a call: a call that never began is not in doubt.
        self._turns = asyncio.Semaphore(calls_in_flight_max)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=calls_in_flight_max, keepalive_timeout=IDLE_SECONDS),
            timeout=aiohttp.ClientTimeout(
                total=timeout_seconds, sock_connect=min(CONNECT_SECONDS_MAX, timeout_seconds / 2)
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            raise_for_status=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def charge(self, payment: Payment) -> Verdict:
        answer = await self._charge(payment, capture=True)
        return _charged(answer) or _declined(answer)

    async def authorise(self, payment: Payment) -> Verdict:
        answer = await self._charge(payment, capture=False)
        if answer.http_status == CONFLICT and answer.code == VOIDED:
            return GivenUp()
        return _charged(answer) or _declined(answer)

    async def _charge(self, payment: Payment, *, capture: bool) -> _Answer:
        amount = payment.amount
        body = _ChargeIn(amount.minor_units, amount.currency, payment.card_token, payment.payment_id, capture)
        return await self._post(self._charges, payment.payment_id, _encode(body))

    async def capture(self, payment: Payment) -> None:
        url = f"{self._charges}/{payment.processor_reference}/captures"
        answer = await self._post(url, f"{payment.payment_id}/capture", b"")
        if _charged(answer) is None:
            raise _failure(answer)

    async def void(self, payment: Payment) -> None:
        """By the authorisation's key: then it does not matter whether it has arrived."""
        amount = payment.amount
        body = _ReversalIn(payment.payment_id, amount.minor_units, amount.currency, payment.payment_id)
        answer = await self._post(self._voids, f"{payment.payment_id}/void", _encode(body))
        if _charged(answer) is None:
            raise _failure(answer)

    async def refund(self, payment: Payment) -> None:
        url = f"{self._charges}/{payment.processor_reference}/refunds"
        answer = await self._post(url, f"{payment.payment_id}/refund", _encode(_RefundIn(payment.amount.minor_units)))
        if answer.http_status not in CREATED:
            raise _failure(answer)

    async def _post(self, url: str, key: str, body: bytes) -> _Answer:
        """The processor's answer, whatever it says. Raises Unavailable or InDoubt where there is none."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if traceparent := current_traceparent():
            headers["traceparent"] = traceparent
        async with self._turns:
            try:
                async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                    return await _read(response)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                raise Unavailable("the card processor cannot be reached", code="processor-unreachable") from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise InDoubt("the card processor's answer was lost", code="processor-answer-lost") from error


async def _read(response: aiohttp.ClientResponse) -> _Answer:
    if (response.content_length or 0) > ANSWER_BYTES_MAX:
        answer = _Answer(detail="and went on for too long")
    else:
        answer = _decoded(await response.read())
    answer.http_status = response.status
    if response.status in BUSY:
        answer.retry_after_seconds = _retry_after(response.headers.get("Retry-After", ""))
    return answer


def _decoded(body: bytes) -> _Answer:
    try:
        return _decode(body)
    except msgspec.DecodeError:
        return _Answer(detail="and something that is not JSON")


def _retry_after(header: str) -> float:
    """In seconds (RFC 9110 §10.2.3); one given as a date is read as a moment."""
    return min(float(header), RETRY_AFTER_SECONDS_MAX) if header.isdecimal() else RETRY_AFTER_SECONDS


def _charged(answer: _Answer) -> Charged | None:
    """The charge, if the answer is one."""
    return Charged(answer.charge_id) if answer.http_status in CREATED and answer.charge_id else None


def _declined(answer: _Answer) -> Declined:
    """Raises Unavailable or InDoubt when the answer is something else."""
    if answer.http_status == DECLINED or (answer.http_status == UNPROCESSABLE and answer.code == UNKNOWN_CARD):
        return Declined(answer.code or "card-declined", answer.detail)
    raise _failure(answer)


def _failure(answer: _Answer) -> Unavailable | InDoubt:
    """Anything that is neither an answer nor a promise that nothing happened leaves it open."""
    if answer.http_status in BUSY:
        return Unavailable(
            f"the card processor answered {answer.http_status}",
            code="processor-busy",
            retry_after_seconds=answer.retry_after_seconds,
        )
    return InDoubt(f"the card processor answered {answer.http_status} {answer.detail}".strip(), code="processor-failed")
