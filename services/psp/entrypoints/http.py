"""The card processor's HTTP interface, as strange as its cards ask it to be."""

from collections import OrderedDict
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.types import Receive, Scope, Send

from libs.kernel.errors import Invalid, Overloaded, Unavailable
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock
from libs.runtime.http_edge import decode_page_token, encode_page_token, idempotency_key, json_response
from libs.telemetry.logs import get_logger
from services.psp.domain import DECLINES, Charge, ChargeRequest, Conduct, RefundRequest, conduct
from services.psp.ports import Queries

AMOUNT_MAX = 10**15
TEXT_LETTERS_MAX = 128
# Keys whose earlier tries are remembered; the oldest is forgotten first.
TRIES_MAX = 100_000

Key = Annotated[str, Depends(idempotency_key)]

log = get_logger(__name__)


class ChargeIn(msgspec.Struct, forbid_unknown_fields=True):
    amount_minor: Annotated[int, msgspec.Meta(gt=0, le=AMOUNT_MAX)]
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
    card_token: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LETTERS_MAX)]
    reference: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LETTERS_MAX)]


class RefundIn(msgspec.Struct, forbid_unknown_fields=True):
    amount_minor: Annotated[int, msgspec.Meta(gt=0, le=AMOUNT_MAX)]


class _HangUp(Response):
    """Ends the connection before the answer: it begins one and never goes on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"1000")]}
        await send(start)


class Desk:
    """Decides each try by its card, and charges where the card lets it."""

    def __init__(
        self,
        charging: Batcher[ChargeRequest, Charge],
        refunding: Batcher[RefundRequest, str],
        memory: Queries,
        clock: Clock,
        slow_seconds: float,
    ) -> None:
        self._charging = charging
        self._refunding = refunding
        self.memory = memory
        self._clock = clock
        self._slow_seconds = slow_seconds
        self._tries: OrderedDict[str, int] = OrderedDict()

    async def charge(self, request: ChargeRequest) -> Response:
        tries = self._count(request.key) if request.card_token != "tok_ok" else 0
        match conduct(request.card_token, tries):
            case Conduct.DECLINE:
                code, message = DECLINES[request.card_token]
                return json_response({"code": code, "message": message}, 402)
            case Conduct.FAIL:
                raise Unavailable("the processor is having a bad moment")
            case Conduct.RATE_LIMIT:
                raise Overloaded("too many requests for this card", retry_after_seconds=1.0)
            case Conduct.CHARGE:
                return json_response(await self._charging.submit(request), 201)
            case Conduct.CHARGE_SLOWLY:
                await self._clock.sleep(self._slow_seconds)
                return json_response(await self._charging.submit(request), 201)
            case Conduct.CHARGE_AND_HANG_UP:
                charge = await self._charging.submit(request)
                log.info("charged, and hanging up before the answer", extra={"charge_id": charge.charge_id})
                return _HangUp()

    async def refund(self, request: RefundRequest) -> str:
        return await self._refunding.submit(request)

    def _count(self, key: str) -> int:
        """How often this key was tried before."""
        before = self._tries.pop(key, 0)
        self._tries[key] = before + 1
        if len(self._tries) > TRIES_MAX:
            self._tries.popitem(last=False)
        return before


def router(desk: Desk) -> APIRouter:
    """The processor's routes. Bodies are read by msgspec: this stands on the path of every order."""
    routes = APIRouter(prefix="/v1", tags=["card processor"])

    @routes.post("/charges", status_code=201)
    async def charge(request: Request, key: Key) -> Response:
        """Charges a card, once for each Idempotency-Key."""
        body = _read(await request.body(), ChargeIn)
        return await desk.charge(ChargeRequest(key, body.reference, body.amount_minor, body.currency, body.card_token))

    @routes.post("/charges/{charge_id}/refunds", status_code=201)
    async def refund(request: Request, charge_id: str, key: Key) -> Response:
        """Gives money back, once for each Idempotency-Key."""
        body = _read(await request.body(), RefundIn)
        await desk.refund(RefundRequest(key, charge_id, body.amount_minor))
        return json_response({"charge_id": charge_id, "amount_minor": body.amount_minor}, 201)

    @routes.get("/charges")
    async def list_charges(
        reference: Annotated[str, Query(max_length=TEXT_LETTERS_MAX)] = "",
        page_size: Annotated[int, Query(ge=1, le=1000)] = 100,
        page_token: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        """What was charged: all of it page by page, or what carries a reference."""
        if reference:
            return json_response({"charges": await desk.memory.by_reference(reference), "next_page_token": ""})
        charges, following = await desk.memory.page(decode_page_token(page_token), page_size)
        return json_response({"charges": charges, "next_page_token": encode_page_token(following)})

    return routes


def _read(body: bytes, shape: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.DecodeError as error:
        raise Invalid(str(error), code="invalid-request") from error
