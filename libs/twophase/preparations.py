"""The prepares of one service: transactions of their own that wait for their coordinator's decision."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import DockyardError
from libs.runtime.batching import Batcher
from libs.twophase.prepared import Prepared

C = TypeVar("C")
R = TypeVar("R")

# Prepares waiting for a connection; beyond it their coordinator is told to come back later.
WAITING_MAX = 1024


class Preparations(Generic[C, R]):
    """Prepares one command at a time in each transaction, at most `in_flight_max` at once.

    `work` has the command's effect on the connection it is given; True beside its answer votes yes. `again` answers
    for a command that an earlier try has prepared; `transaction_of` names its transaction.

    A prepare may wait for a row that another one keeps. Whoever could end that needs a connection as well, so there
    must always be some that no prepare can take: `in_flight_max` is to be well below the size of the pool.
    """

    def __init__(
        self,
        prepared: Prepared,
        name: str,
        work: Callable[[AsyncConnection, C], Awaitable[tuple[R | DockyardError, bool]]],
        again: Callable[[C], R],
        transaction_of: Callable[[C], str],
        in_flight_max: int,
    ) -> None:
        self._prepared = prepared
        self._work = work
        self._again = again
        self._transaction_of = transaction_of
        self._commands: Batcher[C, R] = Batcher(
            f"{name} prepares",
            self._prepare_each,
            batch_rows_max=1,
            queue_rows_max=WAITING_MAX,
            in_flight_max=in_flight_max,
            key=transaction_of,
        )

    async def prepare(self, command: C) -> R:
        """Votes yes with an answer. Raises Refused, and Unavailable or InDoubt when the same may be asked again."""
        return await self._commands.submit(command)

    async def commit(self, transaction_id: str) -> bool:
        """Makes it final; False when nothing is prepared. Raises Unavailable or InDoubt."""
        return await self._prepared.commit(transaction_id)

    async def roll_back(self, transaction_id: str) -> bool:
        """Forgets it; False when nothing is prepared. Raises Unavailable or InDoubt."""
        return await self._prepared.roll_back(transaction_id)

    async def drain(self) -> None:
        await self._commands.drain()

    async def _prepare_each(self, commands: Sequence[C]) -> Sequence[R | DockyardError]:
        return [await self._prepare(command) for command in commands]

    async def _prepare(self, command: C) -> R | DockyardError:
        answered = await self._prepared.prepare(
            self._transaction_of(command), lambda connection: self._work(connection, command)
        )
        return self._again(command) if answered is None else answered
