"""What the order service's handlers need from the world, in their own words."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from libs.kernel.money import Money
from libs.runtime.position import Position
from libs.tcc.barrier import Claim, Entry, Key
from services.order.choreography import Stage
from services.order.domain import Event, Order
from services.order.saga import Cancellation, Checkout


@dataclass(frozen=True, slots=True)
class Appended:
    """Events that follow `version` events already in the order's stream, and the order they make."""

    after: Order
    version: int
    events: tuple[Event, ...]
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class SagaStart:
    """A saga to run once the transaction that decided on it has committed."""

    saga_id: str
    saga: str
    input: Checkout | Cancellation
    traceparent: str


@dataclass(frozen=True, slots=True)
class ChoreographyStart:
    """A choreographed checkout that begins with this transaction; nobody runs it, somebody watches its deadline."""

    order_id: str
    traceparent: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ChoreographyTurn:
    """Where its order's own event took a choreographed checkout; an `event` that the others are told of, or none."""

    order_id: str
    stage: Stage
    event: str = ""


class Orders(Protocol):
    """The event streams of orders."""

    async def load(self, order_ids: Collection[str]) -> Mapping[str, Order]:
        """Each existing order as its events add up to now."""
        ...

    async def positions(self, order_ids: Collection[str]) -> Mapping[str, Position]:
        """Where each existing order's newest event is in the order of commits."""
        ...

    async def append(self, appends: Sequence[Appended]) -> Sequence[Position | None]:
        """Adds events, and tells the world through the outbox; None where somebody else was faster."""
        ...


class Catalogue(Protocol):
    """The local copy of inventory's products."""

    async def prices(self, skus: Collection[str]) -> Mapping[str, Money]:
        """The price of each product that is known."""
        ...


class Sagas(Protocol):
    async def start(self, starts: Sequence[SagaStart]) -> None:
        """Records the sagas in this transaction and runs them after its commit."""
        ...


class Choreographies(Protocol):
    async def begin(self, starts: Sequence[ChoreographyStart]) -> None:
        """Notes them, so that one that stalls is found."""
        ...

    async def lock(self, order_ids: Collection[str]) -> None:
        """From here on nobody else changes these orders, until this transaction has ended."""
        ...

    async def turn(self, turns: Sequence[ChoreographyTurn]) -> None:
        """Notes where they are now, with a new deadline."""
        ...


class Barrier(Protocol):
    """See `libs.tcc.barrier`."""

    async def claim(self, entries: Sequence[Entry]) -> Sequence[Claim]: ...

    async def answer(self, answers: Sequence[tuple[Key, bytes]]) -> None: ...


class Unit(Protocol):
    """One transaction: everything done through it commits together or not at all."""

    @property
    def orders(self) -> Orders: ...
    @property
    def catalogue(self) -> Catalogue: ...
    @property
    def sagas(self) -> Sagas: ...
    @property
    def choreographies(self) -> Choreographies: ...
    @property
    def barrier(self) -> Barrier: ...


class Units(Protocol):
    def open(self) -> AbstractAsyncContextManager[Unit]:
        """Begins a transaction; leaving without an error commits it."""
        ...
