"""The card processor's HTTP interface, as strange as its cards ask it to be."""

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.types import Receive, Scope, Send

from libs.kernel.errors import Invalid, Overloaded, Unavailable
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock
from libs.runtime.http_edge import (
    KEY_LETTERS_MAX,
    decode_page_token,
    encode_page_token,
    idempotency_key,
    json_response,
)
from libs.runtime.problems import IDEMPOTENCY_KEY, problem_response
from libs.telemetry.logs import get_logger
from services.psp.domain import (
    DECLINES,
    UNKNOWN_CARD,
    Charge,
    ChargeRequest,
    Conduct,
    Ending,
    Refund,
    RefundRequest,
    Reversal,
    Status,
    conduct,
)
from services.psp.ports import Queries

AMOUNT_MAX = 10**15
TEXT_LETTERS_MAX = 128
# Keys whose earlier tries are remembered; the oldest is forgotten first.
TRIES_MAX = 100_000
RETRY_AFTER_SECONDS = 1.0

CHARGES = "/v1/charges"
KEY = re.compile(rf"[!-~]{{1,{KEY_LETTERS_MAX}}}")
VISIBLE = "^[!-~]+$"
CHARGE_ID = re.compile(r"(ch_[0-9a-f]{32})?")

Key = Annotated[str, Depends(idempotency_key)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LETTERS_MAX, pattern=VISIBLE)]
Amount = Annotated[int, msgspec.Meta(gt=0, le=AMOUNT_MAX)]
Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
InPath = Annotated[str, Path(max_length=TEXT_LETTERS_MAX, pattern=VISIBLE)]

log = get_logger(__name__)


class ChargeIn(msgspec.Struct, forbid_unknown_fields=True):
    """Without `capture` the money is only set aside, until it is captured or voided."""

    amount_minor: Amount
    currency: Currency
    card_token: Text
    reference: Text
    capture: bool = True


class RefundIn(msgspec.Struct, forbid_unknown_fields=True):
    amount_minor: Amount


class ReversalIn(msgspec.Struct, forbid_unknown_fields=True):
    """What was to be authorised, and under which Idempotency-Key."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=KEY_LETTERS_MAX, pattern=VISIBLE)]
    amount_minor: Amount
    currency: Currency
    reference: Text


_read_charge = msgspec.json.Decoder(ChargeIn)
_read_refund = msgspec.json.Decoder(RefundIn)
_read_reversal = msgspec.json.Decoder(ReversalIn)


class HangUp(Response):
    """Ends the connection without an answer: after an interim one (RFC 9110 §15.2) the server finds nothing to send."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 103, "headers": [(b"content-length", b"0")]})


@dataclass(frozen=True, slots=True)
class Work:
    """What the processor does, in batches."""

    charging: Batcher[ChargeRequest, Charge]
    refunding: Batcher[RefundRequest, Refund]
    ending: Batcher[Ending, Charge]
    reversing: Batcher[Reversal, Charge]


class Desk:
    """Decides each try by its card, and charges where the card lets it."""

    def __init__(
        self,
        work: Work,
        memory: Queries,
        clock: Clock,
        slow_seconds: float,
    ) -> None:
        self._work = work
        self.memory = memory
        self._clock = clock
        self._slow_seconds = slow_seconds
        self._tries: OrderedDict[str, int] = OrderedDict()

    async def charge(self, request: ChargeRequest) -> Response:
        tries = self._count(request.key) if request.card_token != "tok_ok" else 0
        match conduct(request.card_token, request.key, tries):
            case Conduct.CHARGE:
                return json_response(await self._work.charging.submit(request), 201)
            case Conduct.CHARGE_SLOWLY:
                await self._clock.sleep(self._slow_seconds)
                return json_response(await self._work.charging.submit(request), 201)
            case Conduct.CHARGE_AND_HANG_UP:
                charge = await self._work.charging.submit(request)
                log.info("charged, and hanging up before the answer", extra={"charge_id": charge.charge_id})
                return HangUp()
            case Conduct.HANG_UP:
                return HangUp()
            case Conduct.DECLINE:
                return problem_response(402, *DECLINES[request.card_token], CHARGES)
            case Conduct.FAIL:
                raise Unavailable("the processor is having a bad moment")
            case Conduct.RATE_LIMIT:
                raise Overloaded("too many requests for this card", retry_after_seconds=RETRY_AFTER_SECONDS)

    async def refund(self, request: RefundRequest) -> Refund:
        return await self._work.refunding.submit(request)

    async def end(self, charge_id: str, status: Status) -> Charge:
        return await self._work.ending.submit(Ending(charge_id, status))

    async def reverse(self, request: Reversal) -> Charge:
        return await self._work.reversing.submit(request)

    def _count(self, key: str) -> int:
        """How often this key was tried before."""
        before = self._tries.pop(key, 0)
        self._tries[key] = before + 1
        if len(self._tries) > TRIES_MAX:
            self._tries.popitem(last=False)
        return before


def router(desk: Desk) -> APIRouter:
    """The processor's routes. This stands on the path of every order, so charging reads its request by itself."""
    routes = APIRouter(prefix="/v1", tags=["card processor"])

    @routes.post("/charges", status_code=201, openapi_extra=_documented(ChargeIn, with_key=True))
    async def charge(request: Request) -> Response:
        """Charges a card, or sets its money aside, once for each Idempotency-Key."""
        key = _key(request)
        body = _read(await request.body(), _read_charge)
        wanted = ChargeRequest(key, body.reference, body.amount_minor, body.currency, body.card_token, body.capture)
        try:
            return await desk.charge(wanted)
        except Invalid as error:
            if error.code != UNKNOWN_CARD:
                raise
            return problem_response(422, error.code, error.message, CHARGES)

    @routes.post("/charges/{charge_id}/refunds", status_code=201, openapi_extra=_documented(RefundIn))
    async def refund(request: Request, charge_id: InPath, key: Key) -> Response:
        """Gives money back, once for each Idempotency-Key."""
        body = _read(await request.body(), _read_refund)
        return json_response(await desk.refund(RefundRequest(key, charge_id, body.amount_minor)), 201)

    @routes.post("/charges/{charge_id}/captures", status_code=201)
    async def capture(charge_id: InPath) -> Response:
        """Takes the money that an authorisation set aside; a charge is captured once."""
        return json_response(await desk.end(charge_id, Status.CAPTURED), 201)

    @routes.post("/charges/{charge_id}/voids", status_code=201)
    async def void(charge_id: InPath) -> Response:
        """Lets the money go that an authorisation set aside."""
        return json_response(await desk.end(charge_id, Status.VOIDED), 201)

    @routes.post("/voids", status_code=201, openapi_extra=_documented(ReversalIn))
    async def reverse(request: Request) -> Response:
        """Voids what was authorised under a key, whether it has arrived or comes later."""
        body = _read(await request.body(), _read_reversal)
        wanted = Reversal(body.key, body.reference, body.amount_minor, body.currency)
        return json_response(await desk.reverse(wanted), 201)

    @routes.get("/charges")
    async def list_charges(
        reference: Annotated[str, Query(max_length=TEXT_LETTERS_MAX, pattern="^[!-~]*$")] = "",
        key: Annotated[str, Query(max_length=KEY_LETTERS_MAX, pattern="^[!-~]*$")] = "",
        page_size: Annotated[int, Query(ge=1, le=1000)] = 100,
        page_token: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        """What was charged, and what became of it, page by page: all, by reference, or what one key charged."""
        if key:
            return json_response({"charges": await desk.memory.by_key(key), "next_page_token": ""})
        charges, following = await desk.memory.page(reference, _after(page_token), page_size)
        return json_response({"charges": charges, "next_page_token": encode_page_token(following)})

    return routes


def _key(request: Request) -> str:
    """As `idempotency_key` reads it, at a third of the cost."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        raise Invalid(f"this request needs an {IDEMPOTENCY_KEY} header", code="idempotency-key-missing")
    if not KEY.fullmatch(key):
        raise Invalid(f"{IDEMPOTENCY_KEY} is 1 to 255 visible characters", code="idempotency-key-invalid")
    return key


def _after(page_token: str) -> str:
    after = decode_page_token(page_token)
    if not CHARGE_ID.fullmatch(after):
        raise Invalid("page_token is not one we gave out", code="page-token-invalid")
    return after


def _read(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.DecodeError as error:
        raise Invalid(str(error), code="invalid-request") from error


def _documented(body: type, *, with_key: bool = False) -> dict[str, Any]:
    """What OpenAPI says of a request that the route reads by itself."""
    _, components = msgspec.json.schema_components([body])
    content = {"application/json": {"schema": components[body.__name__]}}
    document: dict[str, Any] = {"requestBody": {"required": True, "content": content}}
    if with_key:
        schema = {"type": "string", "minLength": 1, "maxLength": KEY_LETTERS_MAX, "pattern": VISIBLE}
        document["parameters"] = [{"name": IDEMPOTENCY_KEY, "in": "header", "required": True, "schema": schema}]
    return document
