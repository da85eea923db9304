"""Captures that are prepared: the payment's way from authorised to capturing waits for its coordinator's decision."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import DockyardError
from libs.runtime.batching import Batcher
from libs.tcc.barrier import Key
from libs.twophase.prepared import Prepared
from services.payment.adapters.units import PostgresUnits
from services.payment.handlers import prepare

# Prepares waiting for a connection; beyond it their coordinator is told to come back later.
WAITING_MAX = 1024


class Preparations:
    """Prepares one payment at a time in each transaction, at most `in_flight_max` at once.

    A prepare may wait for its row. Whoever could let go of that needs a connection as well, so there must always be
    some that no prepare can take.
    """

    def __init__(self, prepared: Prepared, units: PostgresUnits, in_flight_max: int) -> None:
        self._prepared = prepared
        self._units = units
        self._keys: Batcher[Key, bool] = Batcher(
            "payment prepares",
            self._prepare_each,
            batch_rows_max=1,
            queue_rows_max=WAITING_MAX,
            in_flight_max=in_flight_max,
            key=lambda key: key,
        )

    async def prepare(self, key: Key) -> None:
        """Votes yes for what is authorised, or was prepared before.

        Raises Refused when it was taken back, and Unavailable or InDoubt when the same may be asked again.
        """
        await self._keys.submit(key)

    async def commit(self, transaction_id: str) -> bool:
        """Makes it final; False when nothing is prepared. Raises Unavailable or InDoubt."""
        return await self._prepared.commit(transaction_id)

    async def roll_back(self, transaction_id: str) -> bool:
        """Forgets it; False when nothing is prepared. Raises Unavailable or InDoubt."""
        return await self._prepared.roll_back(transaction_id)

    async def drain(self) -> None:
        await self._keys.drain()

    async def _prepare_each(self, keys: Sequence[Key]) -> Sequence[bool | DockyardError]:
        return [await self._prepare(key) for key in keys]

    async def _prepare(self, key: Key) -> bool | DockyardError:
        async def work(connection: AsyncConnection) -> tuple[DockyardError | None, bool]:
            answered, yes = await prepare(self._units.joining(connection), key)
            return (answered if isinstance(answered, DockyardError) else None), yes

        return await self._prepared.prepare(key.transaction_id, work) or True
