"""What REST and gRPC do alike: make a command of a request and hand it to the next batch."""

import hashlib
from collections.abc import Sequence

import msgspec

from libs.coordination.outcomes import Outcome
from libs.kernel.errors import Invalid
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock
from libs.tcc.barrier import Entry, Key, Manner, Operation
from libs.tcc.trail import Trail
from libs.telemetry.tracing import current_traceparent
from libs.twophase.preparations import Preparations
from services.shipping.domain import PARCELS_PER_DAY_MAX, TEXT_LETTERS_MAX, Address, Service
from services.shipping.handlers import (
    Book,
    Command,
    CreateCarrier,
    Dispatch,
    Done,
    Effect,
    booking,
    cancellation,
    confirmation,
)
from services.shipping.ports import Queries

ZONES_MAX = 300
# An Idempotency-Key of 255 characters behind its prefix.
TRANSACTION_LETTERS_MAX = 260


class Desk:
    """Every write but a prepared one goes through one batcher: no two batches of ours touch one day at the same time.

    `lease_ms` is how long a place is held before we ask, unless the command says otherwise.
    """

    def __init__(
        self,
        commands: Batcher[Command, Done],
        preparations: Preparations[Command, Done],
        queries: Queries,
        clock: Clock,
        lease_ms: int,
    ) -> None:
        self._commands = commands
        self._preparations = preparations
        self.queries = queries
        self._clock = clock
        self._lease_ms = lease_ms

    async def book(
        self,
        transaction_id: str,
        address: Address,
        parcels: int,
        manner: Manner = Manner.AT_ONCE,
        lease_ms: int = 0,
    ) -> Done:
        book = Book(address, parcels, self._clock.now(), lease_ms or self._lease_ms)
        command = booking(_checked(transaction_id), book, manner)
        if manner is Manner.PREPARE:
            return await self._preparations.prepare(command)
        return await self._commands.submit(command)

    async def confirm(self, transaction_id: str, manner: Manner = Manner.AT_ONCE) -> Done:
        """Makes final what is held or, in that manner, prepared; once."""
        command = confirmation(_checked(transaction_id), manner)
        if manner is Manner.PREPARE:
            await self._preparations.commit(transaction_id)
        return await self._commands.submit(command)

    async def cancel(self, transaction_id: str, manner: Manner = Manner.AT_ONCE) -> Done:
        """Takes back what is there, however it was booked; what is prepared only in that manner."""
        command = cancellation(_checked(transaction_id), manner)
        if manner is Manner.PREPARE:
            await self._preparations.roll_back(transaction_id)
        return await self._commands.submit(command)

    async def settle(self, transaction_id: str, outcome: Outcome) -> None:
        """What the coordinator's own command would do, prepared or held; when that comes, it is answered the same."""
        if outcome is Outcome.CONFIRM:
            await self.confirm(transaction_id, Manner.PREPARE)
        else:
            await self.cancel(transaction_id, Manner.PREPARE)

    async def trail(self, transaction_id: str) -> Trail:
        """What was done for a transaction."""
        return await self.queries.trail(_checked(transaction_id))

    async def dispatch(self, key: str, shipment_id: str) -> Done:
        effect = Dispatch(shipment_id, self._clock.now(), current_traceparent())
        return await self._submit(Key(f"key:{key}", "dispatch", Operation.DO), shipment_id.encode(), effect)

    async def create_carrier(self, key: str, carrier_id: str, name: str, services: Sequence[Service]) -> None:
        if not (1 <= len(carrier_id) <= TEXT_LETTERS_MAX and 1 <= len(name) <= TEXT_LETTERS_MAX):
            raise Invalid(f"a carrier's id and name have 1 to {TEXT_LETTERS_MAX} characters")
        if not 1 <= len(services) <= ZONES_MAX or len({one.zone for one in services}) != len(services):
            raise Invalid(f"a carrier serves 1 to {ZONES_MAX} zones, each named once")
        if any(not 0 <= one.parcels_per_day <= PARCELS_PER_DAY_MAX for one in services):
            raise Invalid(f"a carrier takes 0 to {PARCELS_PER_DAY_MAX} parcels a day")
        effect = CreateCarrier(carrier_id, name, tuple(services))
        asked = msgspec.json.encode((carrier_id, name, services))
        await self._submit(Key(f"key:{key}", "create-carrier", Operation.DO), asked, effect)

    async def _submit(self, key: Key, asked: bytes, effect: Effect) -> Done:
        return await self._commands.submit(Command(Entry(key, hashlib.sha256(asked).digest()), effect))


def _checked(transaction_id: str) -> str:
    """Raises Invalid."""
    readable = transaction_id.isascii() and transaction_id.isprintable()
    if not 1 <= len(transaction_id) <= TRANSACTION_LETTERS_MAX or not readable:
        raise Invalid(f"a transaction_id has 1 to {TRANSACTION_LETTERS_MAX} readable ASCII characters")
    return transaction_id
