"""The payment service over REST."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.kernel.money import Money
from libs.runtime.http_edge import decode_page_token, encode_page_token, idempotency_key, json_response
from libs.tcc.telling import TrailOut
from services.payment.domain import Payment
from services.payment.entrypoints.desk import ChargeCard, Desk

IDENTIFIER = r"^[A-Za-z0-9._:-]+$"

Identifier = Annotated[str, Field(min_length=1, max_length=64, pattern=IDENTIFIER)]
InPath = Annotated[str, Path(max_length=64, pattern=IDENTIFIER)]
# Also the transactions that are named after an Idempotency-Key, which may be any visible text.
TransactionInPath = Annotated[str, Path(max_length=260, pattern=r"^[!-~]+$")]
Key = Annotated[str, Depends(idempotency_key)]


class MoneyIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    minor_units: int = Field(gt=0, le=10**12)
    currency: str = Field(pattern="^[A-Z]{3}$")


class MoneyOut(BaseModel):
    minor_units: int
    currency: str


class AccountIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    account_id: Identifier
    name: str = Field(min_length=1, max_length=200)


class AccountOut(BaseModel):
    account_id: str
    name: str
    charged: MoneyOut


class PaymentIn(BaseModel):
    """Without a transaction_id the Idempotency-Key names the transaction."""

    model_config = ConfigDict(extra="forbid")
    transaction_id: Identifier | None = None
    account_id: Identifier
    amount: MoneyIn
    card_token: Identifier


class PaymentOut(BaseModel):
    payment_id: str
    transaction_id: str
    account_id: str
    amount: MoneyOut
    status: str
    decline_code: str
    processor_reference: str
    created_at: datetime


class RefundOut(BaseModel):
    transaction_id: str
    payment_id: str
    amount: MoneyOut | None


class PostingOut(BaseModel):
    posting_id: int
    entry_id: str
    account: str
    amount: MoneyOut
    memo: str
    payment_id: str
    posted_at: datetime


class StatementOut(BaseModel):
    postings: list[PostingOut]
    next_page_token: str


def router(desk: Desk) -> APIRouter:
    """The routes of the payment service."""
    routes = APIRouter(prefix="/v1", tags=["payment"])

    @routes.post("/accounts", status_code=201, response_model=AccountOut)
    async def open_account(body: AccountIn, key: Key) -> Response:
        """Opens an account, or renames it."""
        return json_response(await desk.open_account(key, body.account_id, body.name), 201)

    @routes.get("/accounts/{account_id}", response_model=AccountOut)
    async def get_account(account_id: InPath) -> Response:
        """An account and what it has been charged on balance."""
        return json_response(await desk.queries.account(account_id))

    @routes.get("/accounts/{account_id}/postings", response_model=StatementOut)
    async def list_postings(
        account_id: InPath,
        page_size: Annotated[int, Query(ge=1, le=200)] = 50,
        page_token: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        """The account's statement, newest first."""
        found, following = await desk.queries.postings(account_id, decode_page_token(page_token), page_size)
        return json_response({"postings": found, "next_page_token": encode_page_token(following)})

    @routes.post("/payments", status_code=201, response_model=PaymentOut)
    async def charge(body: PaymentIn, key: Key) -> Response:
        """Charges a card, at most once."""
        amount = Money(body.amount.minor_units, body.amount.currency)
        wanted = ChargeCard(body.transaction_id or f"key:{key}", body.account_id, amount, body.card_token)
        done = await desk.charge(wanted)
        return json_response(_body(await desk.queries.payment(done.payment_id)), 201)

    @routes.get("/payments/{payment_id}", response_model=PaymentOut)
    async def get_payment(payment_id: InPath) -> Response:
        """One payment."""
        return json_response(_body(await desk.queries.payment(payment_id)))

    @routes.post("/transactions/{transaction_id}/refund", response_model=RefundOut)
    async def refund(transaction_id: TransactionInPath, key: Key) -> Response:
        """Gives back what a transaction was charged, or gives up what was only authorised.

        One that was not charged cannot be charged afterwards.
        """
        done = await desk.refund(transaction_id)
        return json_response({"transaction_id": transaction_id, "payment_id": done.payment_id, "amount": done.amount})

    @routes.get("/transactions/{transaction_id}/trail", response_model=TrailOut)
    async def get_trail(transaction_id: TransactionInPath) -> Response:
        """What payment did for a transaction, and how long it kept the customer's money set aside meanwhile."""
        trail = await desk.trail(transaction_id)
        return json_response({"transaction_id": transaction_id, "moments": trail.moments, "kept": trail.kept})

    return routes


def _body(payment: Payment) -> dict[str, Any]:
    """All but the card."""
    return {
        "payment_id": payment.payment_id,
        "transaction_id": payment.transaction_id,
        "account_id": payment.account_id,
        "amount": payment.amount,
        "status": payment.status,
        "decline_code": payment.decline_code,
        "processor_reference": payment.processor_reference,
        "created_at": payment.created_at,
    }
