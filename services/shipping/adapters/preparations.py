"""Bookings that are prepared: a carrier's day is kept until their coordinator has decided."""

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.twophase.preparations import Preparations
from libs.twophase.prepared import Prepared
from services.shipping.adapters.units import PostgresUnits
from services.shipping.domain import shipment_id_of
from services.shipping.handlers import Command, Done, Outcome, prepare


def preparations(
    prepared: Prepared, units: PostgresUnits, days_ahead: int, in_flight_max: int
) -> Preparations[Command, Done]:
    """Votes yes with an answer; one that was prepared before is known by its shipment alone."""

    async def work(connection: AsyncConnection, command: Command) -> tuple[Outcome, bool]:
        return await prepare(units.joining(connection), command, days_ahead)

    def transaction_of(command: Command) -> str:
        return command.entry.key.transaction_id

    def again(command: Command) -> Done:
        return Done(shipment_id_of(transaction_of(command)))

    return Preparations(prepared, "shipping", work, again, transaction_of, in_flight_max)
