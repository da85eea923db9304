"""The card processor over HTTP.

The client is aiohttp's: with dozens of calls under way httpx's connection pool costs more than the order (ADR 0006).
"""

from typing import Any

import aiohttp
import msgspec

from libs.kernel.errors import InDoubt, Unavailable
from libs.telemetry.tracing import current_traceparent
from services.payment.domain import Charged, Declined, Payment, Verdict

CREATED = frozenset({200, 201})
DECLINED = 402
TOO_MANY = 429
UNAVAILABLE = 503
# Connections that nobody used for so long are closed.
IDLE_SECONDS = 30.0


class _Answer(msgspec.Struct):
    """As much of the processor's answers as we look at."""

    charge_id: str = ""
    code: str = ""
    message: str = ""


_decode = msgspec.json.Decoder(_Answer).decode


class HttpProcessor:
    """Charges and refunds under the payment's id, so that asking twice charges once."""

    def __init__(self, url: str, timeout_seconds: float, calls_in_flight_max: int) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=calls_in_flight_max, keepalive_timeout=IDLE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            raise_for_status=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def charge(self, payment: Payment) -> Verdict:
        body = {
            "amount_minor": payment.amount.minor_units,
            "currency": payment.amount.currency,
            "card_token": payment.card_token,
            "reference": payment.payment_id,
        }
        status, answer = await self._post(f"{self._url}/v1/charges", payment.payment_id, body)
        if status in CREATED:
            return Charged(answer.charge_id)
        if status == DECLINED:
            return Declined(answer.code or "card-declined", answer.message)
        raise _failure(status, answer)

    async def refund(self, payment: Payment) -> None:
        url = f"{self._url}/v1/charges/{payment.processor_reference}/refunds"
        body = {"amount_minor": payment.amount.minor_units}
        status, answer = await self._post(url, f"{payment.payment_id}/refund", body)
        if status not in CREATED:
            raise _failure(status, answer)

    async def _post(self, url: str, key: str, body: dict[str, Any]) -> tuple[int, _Answer]:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key, "traceparent": current_traceparent()}
        content = msgspec.json.encode(body)
        try:
            async with self._session.post(url, data=content, headers=headers, allow_redirects=False) as response:
                return response.status, _read(await response.read())
        except aiohttp.ClientConnectorError as error:
            raise Unavailable("the card processor cannot be reached", code="processor-unreachable") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise InDoubt("the card processor's answer was lost", code="processor-answer-lost") from error


def _read(body: bytes) -> _Answer:
    try:
        return _decode(body)
    except msgspec.DecodeError:
        return _Answer(message="the answer is not JSON")


def _failure(status: int, answer: _Answer) -> Unavailable | InDoubt:
    """429 and 503 promise that nothing happened; anything else that is no answer leaves it open."""
    if status in {TOO_MANY, UNAVAILABLE}:
        return Unavailable(f"the card processor answered {status}", code="processor-busy", retry_after_seconds=0.2)
    return InDoubt(f"the card processor answered {status} {answer.message}", code="processor-failed")
