"""What REST and gRPC do alike: make a command of a request and hand it to the next batch."""

import hashlib
from collections.abc import Sequence

import msgspec

from libs.kernel.errors import Invalid
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock, Ids
from libs.tcc.barrier import Entry, Key, Operation
from libs.telemetry.tracing import current_traceparent
from services.shipping.domain import PARCELS_PER_DAY_MAX, Service, checked_parcels
from services.shipping.handlers import Address, Book, Cancel, Command, CreateCarrier, Dispatch, Done
from services.shipping.ports import Queries

BOOK = "book-shipment"
TEXT_LETTERS_MAX = 200
ZONES_MAX = 300


class Desk:
    """Every write goes through one batcher, so that no two batches touch one day at the same time."""

    def __init__(self, commands: Batcher[Command, Done], queries: Queries, clock: Clock, ids: Ids) -> None:
        self._commands = commands
        self.queries = queries
        self._clock = clock
        self._ids = ids

    async def book(self, transaction_id: str, address: Address, parcels: int, step: str = BOOK) -> Done:
        _check(address)
        asked = msgspec.json.encode((address, checked_parcels(parcels)))
        effect = Book(self._ids.new("shp"), address, parcels, self._clock.now())
        return await self._submit(Key(transaction_id, step, Operation.DO), asked, effect)

    async def cancel(self, transaction_id: str, step: str = BOOK) -> Done:
        return await self._submit(Key(transaction_id, step, Operation.UNDO), b"", Cancel())

    async def dispatch(self, key: str, shipment_id: str) -> Done:
        effect = Dispatch(shipment_id, self._clock.now(), current_traceparent())
        return await self._submit(Key(f"key:{key}", "dispatch", Operation.DO), shipment_id.encode(), effect)

    async def create_carrier(self, key: str, carrier_id: str, name: str, services: Sequence[Service]) -> Done:
        if not (1 <= len(carrier_id) <= TEXT_LETTERS_MAX and 1 <= len(name) <= TEXT_LETTERS_MAX):
            raise Invalid(f"a carrier's id and name have 1 to {TEXT_LETTERS_MAX} characters")
        if not 1 <= len(services) <= ZONES_MAX or len({one.zone for one in services}) != len(services):
            raise Invalid(f"a carrier serves 1 to {ZONES_MAX} zones, each named once")
        if any(not 0 <= one.parcels_per_day <= PARCELS_PER_DAY_MAX for one in services):
            raise Invalid(f"a carrier takes 0 to {PARCELS_PER_DAY_MAX} parcels a day")
        effect = CreateCarrier(carrier_id, name, tuple(services))
        asked = msgspec.json.encode((carrier_id, name, services))
        return await self._submit(Key(f"key:{key}", "create-carrier", Operation.DO), asked, effect)

    async def _submit(self, key: Key, asked: bytes, effect: Book | Cancel | Dispatch | CreateCarrier) -> Done:
        return await self._commands.submit(Command(Entry(key, hashlib.sha256(asked).digest()), effect))


def _check(address: Address) -> None:
    for name in ("name", "street", "city", "postcode"):
        if not 1 <= len(getattr(address, name)) <= TEXT_LETTERS_MAX:
            raise Invalid(f"an address's {name} has 1 to {TEXT_LETTERS_MAX} characters")
    if len(address.zone) != 2 or not address.zone.isupper():
        raise Invalid(f"an address's zone is an ISO 3166-1 alpha-2 country code, not {address.zone!r}")
