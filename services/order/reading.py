"""What readers of orders get, and what they may ask: ports of the read side, in the readers' words."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from libs.eventsourcing.store import Recorded
from libs.kernel.money import Money
from libs.runtime.position import Position
from services.order.domain import Address, Order, PricedLine

Reached = Callable[[Order], bool]


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order as its readers see it: everything but the card."""

    order_id: str
    customer_id: str
    status: str
    reason: str
    coordination: str
    lines: tuple[PricedLine, ...]
    total: Money
    ship_to: Address
    placed_at: datetime
    updated_at: datetime
    version: int
    parked_reason: str = ""


def view_of(order: Order, parked_reason: str = "") -> OrderView:
    """What readers see of an order that was just folded from its events."""
    return OrderView(
        order_id=order.order_id,
        customer_id=order.customer_id,
        status=order.status.value,
        reason=order.reason,
        coordination=order.coordination,
        lines=order.lines,
        total=order.total,
        ship_to=order.ship_to,
        placed_at=order.placed_at,
        updated_at=order.updated_at,
        version=order.version,
        parked_reason=parked_reason,
    )


@dataclass(frozen=True, slots=True)
class Page:
    """One page of orders, and the key to ask for the next one with; empty at the end."""

    orders: Sequence[OrderView]
    next_before: str


class Kind(StrEnum):
    """Where a line of a timeline is known from."""

    EVENT = "event"  # the order's own events
    LOG = "log"  # its coordinator's log: what was tried, and what came of it
    MESSAGE = "message"  # what the order said and heard of a choreographed checkout
    EFFECT = "effect"  # the service's own record
    UNAVAILABLE = "unavailable"  # the service could not be asked: its part is missing


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """`attempt` is 0 where nothing was tried."""

    at: datetime
    service: str
    what: str
    step: str = ""
    attempt: int = 0
    detail: str = ""
    kind: Kind = Kind.EVENT


@dataclass(frozen=True, slots=True)
class Kept:
    """What a service kept from others for the order; `until` is None while it still does."""

    what: str
    service: str
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class ServiceTrail:
    """One service's part of a timeline: what it did, or that it could not be asked."""

    entries: Sequence[TimelineEntry]
    kept: Sequence[Kept] = ()


@dataclass(frozen=True, slots=True)
class Timeline:
    """`state` is that of the newest saga, else of the choreography, else the order's; an unfinished one waits."""

    order_id: str
    coordination: str
    state: str
    waits_for: str
    waits_since: datetime | None
    entries: tuple[TimelineEntry, ...]
    kept: tuple[Kept, ...]


class Queries(Protocol):
    """Reads orders: from the view, or folded from their events when that is what was asked."""

    async def get(self, order_id: str, after: Position | None = None) -> tuple[OrderView, Position]:
        """The order, at least as new as `after`. Raises NotFound."""
        ...

    async def page(
        self, customer_id: str, limit: int, before: str, after: Position | None = None
    ) -> tuple[Page, Position]:
        """Orders below `before`, newest first; a page that cannot catch up with `after` in time says where it is."""
        ...

    async def events(self, order_id: str) -> Sequence[Recorded]:
        """Every event of the order, oldest first. Raises NotFound."""
        ...

    async def fold(self, order_id: str) -> Order | None:
        """The order as its events add up to now."""
        ...

    async def as_of(self, order_id: str, *, version: int | None = None, time: datetime | None = None) -> OrderView:
        """The order as it was: after its first `version` events, or at an instant. Raises NotFound before its time."""
        ...


class Timelines(Protocol):
    async def of(self, order_id: str) -> Timeline:
        """One order's story, oldest first. Raises NotFound."""
        ...


class Trails(Protocol):
    async def of(self, order_id: str) -> Sequence[ServiceTrail]:
        """What every participant did for the order; one that does not answer soon is an entry, not an error."""
        ...


class Watch(Protocol):
    def until(self, order_id: str, reached: Reached) -> AbstractContextManager[Awaitable[Order]]:
        """The order once `reached` holds; enter before the request that may lead there."""
        ...
