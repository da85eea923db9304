"""The payment service over gRPC: the same operations as REST, and batches for coordinators."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from libs.kernel.errors import InDoubt, Invalid
from libs.kernel.money import Money
from libs.resilience.deadline import Deadline
from libs.runtime.batch_rpc import execute_batch
from libs.runtime.http_edge import decode_page_token, encode_page_token
from libs.tcc.barrier import Manner
from libs.tcc.telling import trail_message
from proto.kernel.v1 import kernel_pb2
from proto.participant.v1 import participant_pb2
from proto.payment.v1 import payment_pb2, payment_pb2_grpc
from services.payment.domain import Status, check_text
from services.payment.entrypoints.desk import ChargeCard, Desk
from services.payment.handlers import Done
from services.payment.ports import Account

PAGE_SIZE_MAX = 200
PAGE_SIZE = 50
KEY_LETTERS_MAX = 255

STATUSES: Mapping[Status, payment_pb2.PaymentStatus.ValueType] = {
    Status.CHARGING: payment_pb2.PAYMENT_STATUS_CHARGING,
    Status.AUTHORISING: payment_pb2.PAYMENT_STATUS_AUTHORISING,
    Status.AUTHORISED: payment_pb2.PAYMENT_STATUS_AUTHORISED,
    Status.CAPTURING: payment_pb2.PAYMENT_STATUS_CAPTURING,
    Status.CHARGED: payment_pb2.PAYMENT_STATUS_CHARGED,
    Status.DECLINED: payment_pb2.PAYMENT_STATUS_DECLINED,
    Status.VOIDING: payment_pb2.PAYMENT_STATUS_VOIDING,
    Status.VOIDED: payment_pb2.PAYMENT_STATUS_VOIDED,
    Status.REFUNDING: payment_pb2.PAYMENT_STATUS_REFUNDING,
    Status.REFUNDED: payment_pb2.PAYMENT_STATUS_REFUNDED,
}
MANNERS: Mapping[int, Manner] = {
    participant_pb2.MANNER_UNSPECIFIED: Manner.AT_ONCE,
    participant_pb2.MANNER_HOLD: Manner.HOLD,
    participant_pb2.MANNER_PREPARE: Manner.PREPARE,
}

Context = grpc.aio.ServicerContext[Any, Any]


class PaymentServicer(payment_pb2_grpc.PaymentServiceServicer):
    """Translates messages to and from the desk.

    In a batch, a command whose card is slow is answered "still running" after `answer_within_seconds`, so that it does
    not keep its neighbours; the work goes on, and who asks again joins it.
    """

    def __init__(self, desk: Desk, answer_within_seconds: float) -> None:
        self._desk = desk
        self._answer_within_seconds = answer_within_seconds

    async def OpenAccount(
        self, request: payment_pb2.OpenAccountRequest, context: Context
    ) -> payment_pb2.OpenAccountResponse:
        key = check_text("idempotency_key", request.idempotency_key, KEY_LETTERS_MAX)
        account = await self._desk.open_account(key, request.account_id, request.name)
        return payment_pb2.OpenAccountResponse(account=_account(account))

    async def GetAccount(
        self, request: payment_pb2.GetAccountRequest, context: Context
    ) -> payment_pb2.GetAccountResponse:
        account_id = check_text("account_id", request.account_id)
        return payment_pb2.GetAccountResponse(account=_account(await self._desk.queries.account(account_id)))

    async def ListPostings(
        self, request: payment_pb2.ListPostingsRequest, context: Context
    ) -> payment_pb2.ListPostingsResponse:
        limit = request.page_size or PAGE_SIZE
        if not 1 <= limit <= PAGE_SIZE_MAX:
            raise Invalid(f"page_size is 1 to {PAGE_SIZE_MAX}, not {limit}")
        before = decode_page_token(request.page_token)
        account_id = check_text("account_id", request.account_id)
        found, following = await self._desk.queries.postings(account_id, before, limit)
        postings = [
            payment_pb2.Posting(
                posting_id=one.posting_id,
                entry_id=one.entry_id,
                account_id=one.account,
                amount=_money(one.amount),
                memo=one.memo,
                payment_id=one.payment_id,
                posted_at=_timestamp(one.posted_at),
            )
            for one in found
        ]
        return payment_pb2.ListPostingsResponse(postings=postings, next_page_token=encode_page_token(following))

    async def GetPayment(
        self, request: payment_pb2.GetPaymentRequest, context: Context
    ) -> payment_pb2.GetPaymentResponse:
        payment = await self._desk.queries.payment(check_text("payment_id", request.payment_id))
        return payment_pb2.GetPaymentResponse(
            payment=payment_pb2.Payment(
                payment_id=payment.payment_id,
                transaction_id=payment.transaction_id,
                account_id=payment.account_id,
                amount=_money(payment.amount),
                status=STATUSES[payment.status],
                decline_code=payment.decline_code,
                processor_reference=payment.processor_reference,
                created_at=_timestamp(payment.created_at),
            )
        )

    async def Charge(self, request: payment_pb2.ChargeRequest, context: Context) -> payment_pb2.ChargeResponse:
        amount = Money(request.amount.minor_units, request.amount.currency)
        wanted = ChargeCard(request.transaction_id, request.account_id, amount, request.card_token)
        return payment_pb2.ChargeResponse(charged=_charged(await self._desk.charge(wanted)))

    async def Refund(self, request: payment_pb2.RefundRequest, context: Context) -> payment_pb2.RefundResponse:
        return payment_pb2.RefundResponse(refunded=_refunded(await self._desk.refund(request.transaction_id)))

    async def GetTrail(self, request: payment_pb2.GetTrailRequest, context: Context) -> payment_pb2.GetTrailResponse:
        return payment_pb2.GetTrailResponse(trail=trail_message(await self._desk.trail(request.transaction_id)))

    async def ExecuteBatch(
        self, request: payment_pb2.ExecuteBatchRequest, context: Context
    ) -> payment_pb2.ExecuteBatchResponse:
        return payment_pb2.ExecuteBatchResponse(results=await execute_batch(request.commands, self._execute, _failed))

    async def _execute(self, command: payment_pb2.Command) -> payment_pb2.Result:
        try:
            async with asyncio.timeout(self._answer_within_seconds):
                return await self._execute_fully(command)
        except TimeoutError:
            wait = self._answer_within_seconds
            raise InDoubt(
                "the card processor has not answered yet", code="still-running", retry_after_seconds=wait
            ) from None

    async def _execute_fully(self, command: payment_pb2.Command) -> payment_pb2.Result:
        key = command.context
        match command.WhichOneof("command"), key.operation:
            case "charge", participant_pb2.OPERATION_DO:
                return payment_pb2.Result(charged=_charged(await self._desk.charge(_wanted(key, command.charge))))
            case "capture", participant_pb2.OPERATION_CONFIRM:
                done = await self._desk.confirm(key.transaction_id, key.step, MANNERS[key.manner])
                return payment_pb2.Result(captured=_captured(done))
            case "refund", participant_pb2.OPERATION_UNDO:
                done = await self._desk.refund(key.transaction_id, key.step, MANNERS[key.manner])
                return payment_pb2.Result(refunded=_refunded(done))
            case _:
                raise Invalid("a command is charge to do, capture to confirm, or refund to undo")


def _failed(error: participant_pb2.Refusal | participant_pb2.Fault) -> payment_pb2.Result:
    if isinstance(error, participant_pb2.Refusal):
        return payment_pb2.Result(refused=error)
    return payment_pb2.Result(fault=error)


def _wanted(key: participant_pb2.CommandContext, charge: payment_pb2.ChargeCard) -> ChargeCard:
    return ChargeCard(
        key.transaction_id,
        charge.account_id,
        Money(charge.amount.minor_units, charge.amount.currency),
        charge.card_token,
        key.step,
        Deadline(key.deadline_unix_ms) if key.deadline_unix_ms else None,
        MANNERS[key.manner],
        key.lease_ms,
    )


def _money(money: Money) -> kernel_pb2.Money:
    return kernel_pb2.Money(minor_units=money.minor_units, currency=money.currency)


def _charged(done: Done) -> payment_pb2.Charged:
    return payment_pb2.Charged(payment_id=done.payment_id, amount=_money(done.amount) if done.amount else None)


def _refunded(done: Done) -> payment_pb2.Refunded:
    return payment_pb2.Refunded(payment_id=done.payment_id, amount=_money(done.amount) if done.amount else None)


def _captured(done: Done) -> payment_pb2.Captured:
    return payment_pb2.Captured(payment_id=done.payment_id, amount=_money(done.amount) if done.amount else None)


def _account(account: Account) -> payment_pb2.Account:
    return payment_pb2.Account(account_id=account.account_id, name=account.name, charged=_money(account.charged))


def _timestamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp
