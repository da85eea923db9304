"""Shipping's part of the choreographed checkout: books on one event, takes back on another, and says which it did."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.choreography.events import Reaction, outgoing, reactions, said
from libs.choreography.rounds import rounds
from libs.kernel.errors import Invalid, Refused
from libs.messaging.event import Delivery, OutgoingEvent
from libs.messaging.outbox import Outbox
from libs.runtime.clock import Clock, Ids
from proto.events.v1 import events_pb2
from services.shipping.adapters.units import SOURCE, PostgresUnits
from services.shipping.choreography import PART
from services.shipping.domain import Address
from services.shipping.handlers import Book, Command, Done, Outcome, booking, cancellation, execute


class ParcelLeft(Exception):
    """A checkout goes back whose parcel is on its way: it left without its order's confirmation."""


class Checkouts:
    """Has the effects that the events of checkouts call for, and announces what came of them, in one transaction."""

    def __init__(self, units: PostgresUnits, days_ahead: int, clock: Clock, ids: Ids) -> None:
        self._units = units
        self._days_ahead = days_ahead
        self._clock = clock
        self._ids = ids

    async def apply(self, connection: AsyncConnection, deliveries: Sequence[Delivery]) -> None:
        """Raises ParcelLeft, DecodeError, and what the database says when the same may be tried again."""
        for together in rounds(deliveries):
            asked = reactions(PART, together)
            events = [
                event
                for reaction, outcome in zip(asked, await self._outcomes(connection, asked), strict=True)
                if (event := self._announcement(reaction, outcome)) is not None
            ]
            await Outbox(connection).add(events)

    async def _outcomes(self, connection: AsyncConnection, asked: Sequence[Reaction]) -> list[Outcome]:
        commands = [self._command(reaction) for reaction in asked]
        possible = [command for command in commands if isinstance(command, Command)]
        had = iter(await execute(self._units.joining(connection), possible, self._days_ahead))
        return [next(had) if isinstance(command, Command) else command for command in commands]

    def _command(self, reaction: Reaction) -> Command | Refused:
        """What the event asks for; an address that no parcel can go to is refused, as every other is."""
        if not isinstance(reaction.event, events_pb2.PaymentCharged):
            return cancellation(reaction.order_id)
        to = reaction.event.checkout.ship_to
        address = Address(to.name, to.street, to.city, to.postcode, to.zone)
        try:
            return booking(reaction.order_id, Book(address, 1, self._clock.now()))
        except Invalid as error:
            return Refused(error.message, code=error.code)

    def _announcement(self, reaction: Reaction, outcome: Outcome) -> OutgoingEvent | None:
        if isinstance(outcome, Refused) and not reaction.rule.refused:
            raise ParcelLeft(f"{reaction.order_id}: {reaction.rule.effect} was refused: {outcome.message}")
        at = self._clock.now()
        fields = {"shipment_id": outcome.shipment_id} if isinstance(outcome, Done) else {}
        message = said(reaction, outcome, at, **fields)
        return outgoing(message, SOURCE, at, reaction.traceparent, self._ids.new) if message is not None else None
