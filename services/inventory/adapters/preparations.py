"""Deductions that are prepared: a product's row is kept until their coordinator has decided."""

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.twophase.preparations import Preparations
from libs.twophase.prepared import Prepared
from services.inventory.adapters.units import PostgresUnits
from services.inventory.handlers import Command, Deduct, Done, Outcome, prepare


def preparations(prepared: Prepared, units: PostgresUnits, in_flight_max: int) -> Preparations[Command, Done]:
    """Votes yes with the lines it takes; one that was prepared before does so again."""

    async def work(connection: AsyncConnection, command: Command) -> tuple[Outcome, bool]:
        return await prepare(units.joining(connection), command)

    def again(command: Command) -> Done:
        assert isinstance(command.effect, Deduct), "only deductions are prepared"
        return Done(lines=command.effect.lines)

    return Preparations(
        prepared, "inventory", work, again, lambda command: command.entry.key.transaction_id, in_flight_max
    )
