"""Deductions that are prepared: transactions of their own that wait for their coordinator's decision."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.runtime.batching import Batcher
from libs.twophase.prepared import Prepared
from services.inventory.adapters.units import PostgresUnits
from services.inventory.handlers import Command, Deduct, Done, Outcome, batch_key, prepare

# Prepares waiting for a connection; beyond it their coordinator is told to come back later.
WAITING_MAX = 1024


class Preparations:
    """Prepares one command at a time in each transaction, at most `in_flight_max` at once.

    A prepare may wait for a product that another one keeps. Whoever could end that needs a connection as well, so there
    must always be some that no prepare can take.
    """

    def __init__(self, prepared: Prepared, units: PostgresUnits, in_flight_max: int) -> None:
        self._prepared = prepared
        self._units = units
        self._commands: Batcher[Command, Done] = Batcher(
            "inventory prepares",
            self._prepare_each,
            batch_rows_max=1,
            queue_rows_max=WAITING_MAX,
            in_flight_max=in_flight_max,
            key=batch_key,
        )

    async def prepare(self, command: Command) -> Done:
        """Votes yes with the lines it takes; one that was prepared before does so again.

        Raises Refused, and Unavailable or InDoubt when the same may be asked again.
        """
        return await self._commands.submit(command)

    async def commit(self, transaction_id: str) -> bool:
        """Makes it final; False when nothing is prepared. Raises Unavailable or InDoubt."""
        return await self._prepared.commit(transaction_id)

    async def roll_back(self, transaction_id: str) -> bool:
        """Forgets it; False when nothing is prepared. Raises Unavailable or InDoubt."""
        return await self._prepared.roll_back(transaction_id)

    async def drain(self) -> None:
        await self._commands.drain()

    async def _prepare_each(self, commands: Sequence[Command]) -> Sequence[Outcome]:
        return [await self._prepare(command) for command in commands]

    async def _prepare(self, command: Command) -> Outcome:
        assert isinstance(command.effect, Deduct), "only deductions are prepared"

        async def work(connection: AsyncConnection) -> tuple[Outcome, bool]:
            return await prepare(self._units.joining(connection), command)

        answered: Outcome | None = await self._prepared.prepare(command.entry.key.transaction_id, work)
        return Done(lines=command.effect.lines) if answered is None else answered
