"""The order's part of the choreographed checkout: notes that it moves, and ends its order the way it ended."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.choreography.events import MESSAGES, PACKAGE, Reaction, reactions
from libs.choreography.rounds import rounds
from libs.kernel.errors import DockyardError, Refused
from libs.messaging.event import Delivery
from libs.runtime.clock import Clock
from libs.telemetry.logs import get_logger
from proto.events.v1 import events_pb2
from services.order.adapters.choreographies import Heard
from services.order.adapters.units import Committed, PostgresUnits
from services.order.choreography import HEARD, PART
from services.order.handlers import Confirm, EndUnconfirmed, Written, change_orders

# Everything the others say; what the order says itself it knows.
TYPES = tuple(PACKAGE + event for event in HEARD)
# What each event says in a word, in the first of these fields that it has.
DETAILS = ("code", "payment_id", "shipment_id")

log = get_logger(__name__)


class Checkouts:
    """Applies what others say of choreographed checkouts; `tell` whoever acts on it once it is committed."""

    def __init__(self, units: PostgresUnits, clock: Clock) -> None:
        self._units = units
        self._clock = clock
        self._committed = Committed()

    async def apply(self, connection: AsyncConnection, deliveries: Sequence[Delivery]) -> None:
        """Raises NotFound, DecodeError, and what the database says when the same may be tried again."""
        self._committed = Committed()
        unit = self._units.joining(connection, self._committed)
        for together in rounds(deliveries):
            await unit.choreographies.hear([_heard(one) for one in together if one.type in TYPES])
            asked = reactions(PART, together)
            for reaction, outcome in zip(
                asked, await change_orders(unit, [self._change(one) for one in asked]), strict=True
            ):
                _check(reaction, outcome)

    def tell(self) -> None:
        """Says what the newest batch committed, to those who are told of this process's own transactions."""
        self._units.on_commit(self._committed)

    def _change(self, reaction: Reaction) -> Confirm | EndUnconfirmed:
        event, now = reaction.event, self._clock.now()
        if isinstance(event, events_pb2.ShipmentBooked):
            return Confirm(reaction.order_id, now, reaction.traceparent)
        return EndUnconfirmed(reaction.order_id, event.code, event.message, now, reaction.traceparent)


def _heard(delivery: Delivery) -> Heard:
    name = delivery.type.removeprefix(PACKAGE)
    event: Any = MESSAGES[name].FromString(delivery.data)
    known: Mapping[str, Any] = event.DESCRIPTOR.fields_by_name
    return Heard(delivery.subject, name, next((str(getattr(event, field)) for field in DETAILS if field in known), ""))


def _check(reaction: Reaction, outcome: Written | DockyardError) -> None:
    """A confirmation that the order's withdrawal overtook needs no answer: the withdrawal takes everything back."""
    if isinstance(outcome, Refused):
        extra = {"order_id": reaction.order_id, "code": outcome.code}
        log.info("a choreographed checkout was withdrawn before it was confirmed", extra=extra)
    elif isinstance(outcome, DockyardError):
        raise outcome
