"""The saga's commands as batch RPCs: while one call to a participant is under way, the next commands collect."""

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from libs.kernel.errors import DockyardError, InDoubt, Refused, Unavailable
from libs.resilience.breaker import Breaker
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock
from libs.runtime.grpc_edge import call
from libs.saga.calls import CommandContext
from libs.saga.definition import Command
from libs.telemetry.tracing import current_traceparent
from proto.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from proto.kernel.v1 import kernel_pb2
from proto.participant.v1 import participant_pb2
from proto.payment.v1 import payment_pb2, payment_pb2_grpc
from proto.shipping.v1 import shipping_pb2, shipping_pb2_grpc
from services.order.adapters.codec import address_message
from services.order.saga import BookShipment, ChargeCard, DeductStock

# A call never outlives this, whatever its commands' deadlines say.
CALL_SECONDS_MAX = 10.0
# Bounds one message to well below the server's size limit, and how long its neighbours wait for one answer.
COMMANDS_PER_CALL_MAX = 128
# Commands waiting for a call; beyond it the saga is told to come back later.
COMMANDS_WAITING_MAX = 8192

# A prepare may wait for locks that another order keeps until its own commit: it must not make that wait as well.
LONE_CALLS_IN_FLIGHT_MAX = 64

DO = participant_pb2.OPERATION_DO
UNDO = participant_pb2.OPERATION_UNDO
CONFIRM = participant_pb2.OPERATION_CONFIRM
AT_ONCE = participant_pb2.MANNER_UNSPECIFIED
HOLD = participant_pb2.MANNER_HOLD
PREPARE = participant_pb2.MANNER_PREPARE


@dataclass(frozen=True, slots=True)
class Effect:
    """How a command is known to its participant's barrier, and the message that carries it."""

    step: str
    operation: participant_pb2.Operation.ValueType
    message: Callable[[participant_pb2.CommandContext, Any], Any]
    manner: participant_pb2.Manner.ValueType = AT_ONCE


def _deduct_stock(context: participant_pb2.CommandContext, body: DeductStock) -> inventory_pb2.Command:
    lines = [kernel_pb2.Line(sku=line.sku, quantity=line.quantity) for line in body.lines]
    return inventory_pb2.Command(context=context, deduct_stock=inventory_pb2.DeductStock(lines=lines))


def _restock(context: participant_pb2.CommandContext, _: object) -> inventory_pb2.Command:
    return inventory_pb2.Command(context=context, restock=inventory_pb2.RestockDeducted())


def _charge(context: participant_pb2.CommandContext, body: ChargeCard) -> payment_pb2.Command:
    amount = kernel_pb2.Money(minor_units=body.amount.minor_units, currency=body.amount.currency)
    charge = payment_pb2.ChargeCard(account_id=body.account_id, amount=amount, card_token=body.card_token)
    return payment_pb2.Command(context=context, charge=charge)


def _refund(context: participant_pb2.CommandContext, _: object) -> payment_pb2.Command:
    return payment_pb2.Command(context=context, refund=payment_pb2.RefundCharge())


def _book_shipment(context: participant_pb2.CommandContext, body: BookShipment) -> shipping_pb2.Command:
    return shipping_pb2.Command(
        context=context, book=shipping_pb2.Book(address=address_message(body.address), parcels=1)
    )


def _cancel_booking(context: participant_pb2.CommandContext, _: object) -> shipping_pb2.Command:
    return shipping_pb2.Command(context=context, cancel=shipping_pb2.Cancel())


def _confirm_deduction(context: participant_pb2.CommandContext, _: object) -> inventory_pb2.Command:
    return inventory_pb2.Command(context=context, confirm=inventory_pb2.ConfirmDeduction())


def _capture(context: participant_pb2.CommandContext, _: object) -> payment_pb2.Command:
    return payment_pb2.Command(context=context, capture=payment_pb2.CaptureCharge())


def _confirm_booking(context: participant_pb2.CommandContext, _: object) -> shipping_pb2.Command:
    return shipping_pb2.Command(context=context, confirm=shipping_pb2.ConfirmBooking())


# The same effect under the same step in every style: only how it is had differs.
INVENTORY: Mapping[str, Effect] = {
    "deduct-stock": Effect("deduct-stock", DO, _deduct_stock),
    "restock": Effect("deduct-stock", UNDO, _restock),
    "hold-stock": Effect("deduct-stock", DO, _deduct_stock, HOLD),
    "confirm-stock": Effect("deduct-stock", CONFIRM, _confirm_deduction, HOLD),
    "release-stock": Effect("deduct-stock", UNDO, _restock, HOLD),
    "prepare-stock": Effect("deduct-stock", DO, _deduct_stock, PREPARE),
    "commit-stock": Effect("deduct-stock", CONFIRM, _confirm_deduction, PREPARE),
    "roll-back-stock": Effect("deduct-stock", UNDO, _restock, PREPARE),
}
PAYMENT: Mapping[str, Effect] = {
    "charge": Effect("charge", DO, _charge),
    "refund": Effect("charge", UNDO, _refund),
    "authorise": Effect("charge", DO, _charge, HOLD),
    "capture": Effect("charge", CONFIRM, _capture, HOLD),
    "void": Effect("charge", UNDO, _refund, HOLD),
    "prepare-payment": Effect("charge", DO, _charge, PREPARE),
    "commit-payment": Effect("charge", CONFIRM, _capture, PREPARE),
    "roll-back-payment": Effect("charge", UNDO, _refund, PREPARE),
}
SHIPPING: Mapping[str, Effect] = {
    "book-shipment": Effect("book-shipment", DO, _book_shipment),
    "cancel-booking": Effect("book-shipment", UNDO, _cancel_booking),
    "hold-place": Effect("book-shipment", DO, _book_shipment, HOLD),
    "confirm-place": Effect("book-shipment", CONFIRM, _confirm_booking, HOLD),
    "release-place": Effect("book-shipment", UNDO, _cancel_booking, HOLD),
    "prepare-shipment": Effect("book-shipment", DO, _book_shipment, PREPARE),
    "commit-shipment": Effect("book-shipment", CONFIRM, _confirm_booking, PREPARE),
    "roll-back-shipment": Effect("book-shipment", UNDO, _cancel_booking, PREPARE),
}

# What the saga's log keeps of each answer: enough for its timeline and for people.
RESULTS: Mapping[str, Callable[[Any], dict[str, str]]] = {
    "stock_deducted": lambda done: {},
    "restocked": lambda done: {} if done.lines else {"nothing": "to restock"},
    "charged": lambda done: {"payment_id": done.payment_id},
    "refunded": lambda done: {"payment_id": done.payment_id} if done.payment_id else {"nothing": "to refund"},
    "booked": lambda done: {
        "shipment_id": done.shipment_id,
        "carrier_id": done.carrier_id,
        "ship_date": done.ship_date,
    },
    "cancelled": lambda done: {"shipment_id": done.shipment_id} if done.shipment_id else {"nothing": "to cancel"},
    "captured": lambda done: {"payment_id": done.payment_id} if done.payment_id else {"nothing": "left to capture"},
}
# Inventory and shipping both call it "confirmed".
CONFIRMED: Mapping[str, Callable[[Any], dict[str, str]]] = {
    inventory_pb2.DeductionConfirmed.DESCRIPTOR.full_name: lambda done: (
        {} if done.lines else {"nothing": "left to confirm"}
    ),
    shipping_pb2.BookingConfirmed.DESCRIPTOR.full_name: lambda done: (
        {"shipment_id": done.shipment_id} if done.shipment_id else {"nothing": "left to confirm"}
    ),
}

Call = Callable[[Sequence[Any], float], Awaitable[Sequence[Any]]]


class BatchParticipant:
    """A participant behind its batch RPC. Raises Refused, Unavailable or InDoubt for each command on its own."""

    def __init__(
        self, name: str, effects: Mapping[str, Effect], call: Call, clock: Clock, calls_in_flight_max: int
    ) -> None:
        self.name = name
        self._effects = effects
        self._call = call
        self._clock = clock
        self._breaker = Breaker(name)
        self._together: Batcher[Any, dict[str, str]] = Batcher(
            f"call {name}",
            self._execute_batch,
            batch_rows_max=COMMANDS_PER_CALL_MAX,
            queue_rows_max=COMMANDS_WAITING_MAX,
            in_flight_max=calls_in_flight_max,
            key=_effect_key,
        )
        self._alone: Batcher[Any, dict[str, str]] = Batcher(
            f"call {name} alone",
            self._execute_each,
            batch_rows_max=1,
            queue_rows_max=COMMANDS_WAITING_MAX,
            in_flight_max=LONE_CALLS_IN_FLIGHT_MAX,
            key=_effect_key,
        )

    async def drain(self) -> None:
        await self._together.drain()
        await self._alone.drain()

    async def execute(self, command: Command, context: CommandContext) -> dict[str, str]:
        effect = self._effects[command.name]
        message = effect.message(
            participant_pb2.CommandContext(
                transaction_id=command.body.order_id,
                step=effect.step,
                operation=effect.operation,
                traceparent=current_traceparent(),
                deadline_unix_ms=context.deadline_unix_ms,
                attempt=context.attempt,
                manner=effect.manner,
            ),
            command.body,
        )
        may_wait_for_locks = effect.manner == PREPARE and effect.operation == DO
        return await (self._alone if may_wait_for_locks else self._together).submit(message)

    async def _execute_batch(self, messages: Sequence[Any]) -> Sequence[dict[str, str] | DockyardError]:
        results = await self._breaker.call(lambda: self._call(messages, self._seconds_left(messages)))
        return [_outcome(result) for result in results]

    async def _execute_each(self, messages: Sequence[Any]) -> Sequence[dict[str, str] | DockyardError]:
        """Without the breaker: that others keep a lock for long does not mean that the participant fails.

        An open breaker would keep the commands back that release the lock.
        """
        results = await self._call(messages, self._seconds_left(messages))
        return [_outcome(result) for result in results]

    def _seconds_left(self, messages: Sequence[Any]) -> float:
        latest_ms: int = max(message.context.deadline_unix_ms for message in messages)
        return min(max((latest_ms - self._clock.unix_ms()) / 1000, 0.05), CALL_SECONDS_MAX)


def _effect_key(message: Any) -> Hashable:
    return message.context.transaction_id, message.context.step


def _outcome(result: Any) -> dict[str, str] | DockyardError:
    kind = result.WhichOneof("result")
    match kind:
        case "refused":
            refusal = result.refused
            return Refused(refusal.message, code=refusal.code, details=dict(refusal.details))
        case "fault":
            return _fault(result.fault)
        case None:
            return InDoubt("the participant sent an empty result", code="empty-result")
        case "confirmed":
            return CONFIRMED[result.confirmed.DESCRIPTOR.full_name](result.confirmed)
        case _:
            return RESULTS[kind](getattr(result, kind))


def _fault(fault: participant_pb2.Fault) -> DockyardError:
    error = Unavailable if fault.kind == participant_pb2.FAULT_KIND_UNAVAILABLE else InDoubt
    return error(fault.message, code=fault.code, retry_after_seconds=fault.retry_after_ms / 1000 or None)


def _batch_call(method: Callable[..., Awaitable[Any]], request: type) -> Call:
    async def batch_call(commands: Sequence[Any], seconds: float) -> Sequence[Any]:
        response = await call(method, request(commands=commands), seconds)
        if len(response.results) != len(commands):
            raise InDoubt(f"{len(commands)} commands sent, {len(response.results)} results came back")
        return list(response.results)

    return batch_call


def inventory(channel: grpc.aio.Channel, clock: Clock, calls_in_flight_max: int) -> BatchParticipant:
    stub = inventory_pb2_grpc.InventoryServiceStub(channel)
    execute = _batch_call(stub.ExecuteBatch, inventory_pb2.ExecuteBatchRequest)
    return BatchParticipant("inventory", INVENTORY, execute, clock, calls_in_flight_max)


def payment(channel: grpc.aio.Channel, clock: Clock, calls_in_flight_max: int) -> BatchParticipant:
    stub = payment_pb2_grpc.PaymentServiceStub(channel)
    execute = _batch_call(stub.ExecuteBatch, payment_pb2.ExecuteBatchRequest)
    return BatchParticipant("payment", PAYMENT, execute, clock, calls_in_flight_max)


def shipping(channel: grpc.aio.Channel, clock: Clock, calls_in_flight_max: int) -> BatchParticipant:
    stub = shipping_pb2_grpc.ShippingServiceStub(channel)
    execute = _batch_call(stub.ExecuteBatch, shipping_pb2.ExecuteBatchRequest)
    return BatchParticipant("shipping", SHIPPING, execute, clock, calls_in_flight_max)
