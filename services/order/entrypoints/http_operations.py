"""Operators' view of transactions, and their verbs, over REST."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.runtime.http_edge import decode_page_token, encode_page_token, idempotency_key, json_response
from services.order.operations import (
    NAME_LETTERS_MAX,
    WORDS_LETTERS_MAX,
    Intervention,
    Interventions,
    Operations,
    Verb,
)

PAGE_SIZE_MAX = 200
ACTIONS_SHOWN = 50

Name = Annotated[str, Field(min_length=1, max_length=NAME_LETTERS_MAX)]
Words = Annotated[str, Field(min_length=1, max_length=WORDS_LETTERS_MAX)]
PageSize = Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)]
PageToken = Annotated[str, Query(max_length=200)]
Key = Annotated[str, Depends(idempotency_key)]


class VerbIn(BaseModel):
    """Who does it, and why."""

    model_config = ConfigDict(extra="forbid")
    by: Name
    why: Words


class SkipIn(VerbIn):
    step: str = Field(default="", max_length=NAME_LETTERS_MAX, description="empty: the step it is stuck at")
    proof: Words


class EndIn(VerbIn):
    proof: str = Field(
        default="",
        max_length=WORDS_LETTERS_MAX,
        description="what shows that nothing is owed; required where no coordinator knows it",
    )


class TransactionOut(BaseModel):
    transaction_id: str
    order_id: str
    style: str
    status: str
    phase: str
    reason: str
    waits_for: str
    started_at: datetime
    since: datetime
    age_seconds: float
    skippable: list[str]


class ActionOut(BaseModel):
    action_id: str
    transaction_id: str
    verb: str
    step: str
    by: str
    why: str
    proof: str
    outcome: str
    at: datetime


class TransactionPageOut(BaseModel):
    transactions: list[TransactionOut]
    next_page_token: str


class ActionPageOut(BaseModel):
    actions: list[ActionOut]
    next_page_token: str


class ShownOut(BaseModel):
    transaction: TransactionOut
    actions: list[ActionOut]


class IntervenedOut(BaseModel):
    action: ActionOut
    transaction: TransactionOut


def router(operations: Operations, interventions: Interventions) -> APIRouter:
    """Reading routes and one route a verb. A cancellation's id has slashes, so ids are paths."""
    routes = APIRouter(prefix="/v1/transactions", tags=["transactions"])
    _add_views(routes, operations)
    _add_verbs(routes, interventions)
    return routes


def _add_views(routes: APIRouter, operations: Operations) -> None:
    @routes.get("", response_model=TransactionPageOut)
    async def list_transactions(
        state: Annotated[str, Query(max_length=20, description="running, undoing, parked; empty: all")] = "",
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Response:
        """Transactions of every style that have not ended, oldest first."""
        page = await operations.page(state, page_size, decode_page_token(page_token))
        return json_response({"transactions": page.transactions, "next_page_token": encode_page_token(page.next_after)})

    # Before the route that takes anything for an id.
    @routes.get("/actions", response_model=ActionPageOut)
    async def list_actions(
        transaction: Annotated[str, Query(max_length=200, description="empty: every transaction's")] = "",
        page_size: PageSize = 50,
        page_token: PageToken = "",
    ) -> Response:
        """What operators did, and what they were refused, newest first."""
        page = await operations.actions(transaction, page_size, decode_page_token(page_token))
        return json_response({"actions": page.actions, "next_page_token": encode_page_token(page.next_before)})

    @routes.get("/{transaction_id:path}", response_model=ShownOut)
    async def show_transaction(transaction_id: str) -> Response:
        """One transaction, ended or not, and the newest of what operators did to it."""
        transaction = await operations.get(transaction_id)
        page = await operations.actions(transaction_id, ACTIONS_SHOWN, "")
        return json_response({"transaction": transaction, "actions": page.actions})


def _add_verbs(routes: APIRouter, interventions: Interventions) -> None:
    @routes.post("/{transaction_id:path}/retry", response_model=IntervenedOut)
    async def retry(transaction_id: str, body: VerbIn, key: Key) -> Response:
        """Lets a parked transaction try again."""
        one = Intervention(key, Verb.RETRY, transaction_id, body.by, body.why)
        return json_response(await interventions.intervene(one))

    @routes.post("/{transaction_id:path}/skip", response_model=IntervenedOut)
    async def skip(transaction_id: str, body: SkipIn, key: Key) -> Response:
        """Takes a step of a parked transaction as done, or as undone when it goes back, on a proof."""
        one = Intervention(key, Verb.SKIP, transaction_id, body.by, body.why, body.step, body.proof)
        return json_response(await interventions.intervene(one))

    @routes.post("/{transaction_id:path}/compensate", response_model=IntervenedOut)
    async def compensate(transaction_id: str, body: VerbIn, key: Key) -> Response:
        """Takes a pending order back, whatever its checkout has done so far."""
        one = Intervention(key, Verb.COMPENSATE, transaction_id, body.by, body.why)
        return json_response(await interventions.intervene(one))

    @routes.post("/{transaction_id:path}/end", response_model=IntervenedOut)
    async def end(transaction_id: str, body: EndIn, key: Key) -> Response:
        """Ends a parked transaction of which nothing is owed any more; refused with what may be owed."""
        one = Intervention(key, Verb.END, transaction_id, body.by, body.why, proof=body.proof)
        return json_response(await interventions.intervene(one))
