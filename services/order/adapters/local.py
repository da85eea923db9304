"""The order service as a participant of its own sagas: confirm, reject, cancel."""

from libs.kernel.errors import NotFound
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock
from libs.saga.calls import CommandContext
from libs.saga.definition import Command
from libs.telemetry.tracing import current_traceparent
from services.order.handlers import Change, Confirm, EndUnconfirmed, MarkCancelled, RefuseCancel, Written

Answer = dict[str, str]


class OrderParticipant:
    """Takes an order one step on through the same batches as everybody else's requests."""

    def __init__(self, changing: Batcher[Change, Written], clock: Clock) -> None:
        self._changing = changing
        self._clock = clock

    async def execute(self, command: Command, context: CommandContext) -> Answer:
        change = self._change(command, context)
        if change is not None:
            await self._changing.submit(change)
        return {}

    def _change(self, command: Command, context: CommandContext) -> Change | None:
        order_id, now, trace = command.body.order_id, self._clock.now(), current_traceparent()
        match command.name:
            case "accept-order":
                # Done in the commit that started the saga.
                return None
            case "confirm-order":
                return Confirm(order_id, now, trace)
            case "reject-order":
                return EndUnconfirmed(order_id, context.undo_code, context.undo_message, now, trace)
            case "mark-cancelled":
                return MarkCancelled(order_id, now, trace)
            case "refuse-cancel":
                return RefuseCancel(order_id, context.undo_code, now, trace)
            case unknown:
                raise NotFound(f"the order service has no command {unknown}")
