"""Inventory's part of the choreographed checkout: takes stock on one event, puts it back on others, and says so."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.choreography.events import Reaction, outgoing, reactions, said
from libs.choreography.rounds import rounds
from libs.kernel.errors import Invalid, Refused
from libs.messaging.event import Delivery, OutgoingEvent
from libs.messaging.outbox import Outbox
from libs.runtime.clock import Clock, Ids
from proto.events.v1 import events_pb2
from services.inventory.adapters.units import SOURCE, PostgresUnits
from services.inventory.choreography import PART
from services.inventory.domain import Line
from services.inventory.handlers import Command, Outcome, deduction, execute, taking_back


class Checkouts:
    """Has the effects that the events of checkouts call for, and announces what came of them, in one transaction."""

    def __init__(self, units: PostgresUnits, clock: Clock, ids: Ids) -> None:
        self._units = units
        self._clock = clock
        self._ids = ids

    async def apply(self, connection: AsyncConnection, deliveries: Sequence[Delivery]) -> None:
        """Raises DecodeError, and what the database says when the same may be tried again."""
        for together in rounds(deliveries):
            asked = reactions(PART, together)
            events = [
                event
                for reaction, outcome in zip(asked, await self._outcomes(connection, asked), strict=True)
                if (event := self._announcement(reaction, outcome)) is not None
            ]
            await Outbox(connection).add(events)

    async def _outcomes(self, connection: AsyncConnection, asked: Sequence[Reaction]) -> list[Outcome]:
        commands = [_command(reaction) for reaction in asked]
        possible = [command for command in commands if isinstance(command, Command)]
        had = iter(await execute(self._units.joining(connection), possible))
        return [next(had) if isinstance(command, Command) else command for command in commands]

    def _announcement(self, reaction: Reaction, outcome: Outcome) -> OutgoingEvent | None:
        at = self._clock.now()
        message = said(reaction, outcome, at)
        return outgoing(message, SOURCE, at, reaction.traceparent, self._ids.new) if message is not None else None


def _command(reaction: Reaction) -> Command | Refused:
    """What the event asks for; lines that nobody could take are refused, as those are of which there is not enough."""
    if not isinstance(reaction.event, events_pb2.OrderPlaced):
        return taking_back(reaction.order_id)
    try:
        return deduction(reaction.order_id, [Line(line.sku, line.quantity) for line in reaction.event.lines])
    except Invalid as error:
        return Refused(error.message, code=error.code)
