"""Operators' view of transactions, and their verbs, over gRPC: the same as over REST."""

from datetime import datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from libs.kernel.errors import Invalid
from libs.runtime.http_edge import decode_page_token, encode_page_token
from proto.order.v1 import operations_pb2, operations_pb2_grpc
from services.order.operations import Action, Intervened, Intervention, Interventions, Operations, Transaction, Verb

KEY_LETTERS_MAX = 255
PAGE_SIZE_MAX = 200
PAGE_SIZE = 50

Context = grpc.aio.ServicerContext[Any, Any]
Verbed = (
    operations_pb2.RetryTransactionRequest
    | operations_pb2.SkipStepRequest
    | operations_pb2.CompensateTransactionRequest
    | operations_pb2.EndTransactionRequest
)


class TransactionServicer(operations_pb2_grpc.TransactionServiceServicer):
    """Translates messages to and from what operators see and do."""

    def __init__(self, operations: Operations, interventions: Interventions) -> None:
        self._operations = operations
        self._interventions = interventions

    async def ListTransactions(
        self, request: operations_pb2.ListTransactionsRequest, context: Context
    ) -> operations_pb2.ListTransactionsResponse:
        after = decode_page_token(request.page_token)
        page = await self._operations.page(request.state, _limit(request.page_size), after)
        return operations_pb2.ListTransactionsResponse(
            transactions=[_transaction(one) for one in page.transactions],
            next_page_token=encode_page_token(page.next_after),
        )

    async def GetTransaction(
        self, request: operations_pb2.GetTransactionRequest, context: Context
    ) -> operations_pb2.GetTransactionResponse:
        transaction = await self._operations.get(request.transaction_id)
        page = await self._operations.actions(request.transaction_id, PAGE_SIZE, "")
        return operations_pb2.GetTransactionResponse(
            transaction=_transaction(transaction), actions=[_action(one) for one in page.actions]
        )

    async def RetryTransaction(
        self, request: operations_pb2.RetryTransactionRequest, context: Context
    ) -> operations_pb2.RetryTransactionResponse:
        done = await self._intervene(request, Verb.RETRY)
        return operations_pb2.RetryTransactionResponse(
            action=_action(done.action), transaction=_transaction(done.transaction)
        )

    async def SkipStep(
        self, request: operations_pb2.SkipStepRequest, context: Context
    ) -> operations_pb2.SkipStepResponse:
        done = await self._intervene(request, Verb.SKIP, request.step, request.proof)
        return operations_pb2.SkipStepResponse(action=_action(done.action), transaction=_transaction(done.transaction))

    async def CompensateTransaction(
        self, request: operations_pb2.CompensateTransactionRequest, context: Context
    ) -> operations_pb2.CompensateTransactionResponse:
        done = await self._intervene(request, Verb.COMPENSATE)
        return operations_pb2.CompensateTransactionResponse(
            action=_action(done.action), transaction=_transaction(done.transaction)
        )

    async def EndTransaction(
        self, request: operations_pb2.EndTransactionRequest, context: Context
    ) -> operations_pb2.EndTransactionResponse:
        done = await self._intervene(request, Verb.END, proof=request.proof)
        return operations_pb2.EndTransactionResponse(
            action=_action(done.action), transaction=_transaction(done.transaction)
        )

    async def ListOperatorActions(
        self, request: operations_pb2.ListOperatorActionsRequest, context: Context
    ) -> operations_pb2.ListOperatorActionsResponse:
        before = decode_page_token(request.page_token)
        page = await self._operations.actions(request.transaction_id, _limit(request.page_size), before)
        return operations_pb2.ListOperatorActionsResponse(
            actions=[_action(one) for one in page.actions], next_page_token=encode_page_token(page.next_before)
        )

    async def _intervene(self, request: Verbed, verb: Verb, step: str = "", proof: str = "") -> Intervened:
        key = _key(request.idempotency_key)
        one = Intervention(key, verb, request.transaction_id, request.by, request.why, step, proof)
        return await self._interventions.intervene(one)


def _key(key: str) -> str:
    if not (1 <= len(key) <= KEY_LETTERS_MAX and all("!" <= letter <= "~" for letter in key)):
        raise Invalid(f"idempotency_key has 1 to {KEY_LETTERS_MAX} printable ASCII characters")
    return key


def _limit(page_size: int) -> int:
    limit = page_size or PAGE_SIZE
    if not 1 <= limit <= PAGE_SIZE_MAX:
        raise Invalid(f"page_size is 1 to {PAGE_SIZE_MAX}, not {limit}")
    return limit


def _transaction(one: Transaction) -> operations_pb2.Transaction:
    return operations_pb2.Transaction(
        transaction_id=one.transaction_id,
        order_id=one.order_id,
        style=one.style,
        status=one.status,
        phase=one.phase,
        reason=one.reason,
        waits_for=one.waits_for,
        started_at=_timestamp(one.started_at),
        since=_timestamp(one.since),
        age_seconds=one.age_seconds,
        skippable=one.skippable,
    )


def _action(one: Action) -> operations_pb2.OperatorAction:
    return operations_pb2.OperatorAction(
        action_id=one.action_id,
        transaction_id=one.transaction_id,
        verb=one.verb,
        step=one.step,
        by=one.by,
        why=one.why,
        proof=one.proof,
        outcome=one.outcome,
        at=_timestamp(one.at),
    )


def _timestamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
