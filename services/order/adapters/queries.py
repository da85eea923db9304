"""The read side: the order view, and the event streams where a reader wants to be sure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row, text

from libs.eventsourcing.projection import Projector
from libs.eventsourcing.store import PostgresEventStore, Recorded
from libs.kernel.errors import NotFound
from libs.kernel.money import Money
from libs.runtime.database import Database
from libs.runtime.position import Position
from services.order.adapters.codec import CODEC
from services.order.domain import Address, Order, PricedLine, fold
from services.order.reading import OrderView, Page, view_of

# How long a read waits for the view to reach the caller's own write before it asks the write side.
READ_YOUR_WRITES_SECONDS_MAX = 1.0

_COLUMNS = """
    SELECT view.order_id, view.customer_id, view.status, view.reason, view.coordination, view.lines, view.total_minor,
           view.currency, view.ship_to, view.placed_at, view.updated_at, view.version,
           coalesce(sagas.parked_reason, choreographies.parked_reason, '')
      FROM order_view AS view
      LEFT JOIN sagas ON sagas.saga_id = view.order_id
      LEFT JOIN choreographies ON choreographies.order_id = view.order_id
"""

ONE = text(_COLUMNS + " WHERE view.order_id = :order_id")
PARKED = text(
    """
    SELECT parked_reason FROM sagas WHERE saga_id = :order_id
     UNION ALL
    SELECT parked_reason FROM choreographies WHERE order_id = :order_id
    """
)

# The next page below a key, newest first; an empty customer means everybody's.
PAGE = text(_COLUMNS + " WHERE view.order_id < :before ORDER BY view.order_id DESC LIMIT :limit")
PAGE_OF_CUSTOMER = text(
    _COLUMNS
    + " WHERE view.customer_id = :customer_id AND view.order_id < :before ORDER BY view.order_id DESC LIMIT :limit"
)

# Sorts after every order id.
NEWEST = "ord_~"


class OrderQueries:
    """Reads orders: from the view, or folded from their events when that is what was asked."""

    def __init__(self, database: Database, projector: Projector) -> None:
        self._database = database
        self._projector = projector

    async def get(self, order_id: str, after: Position | None = None) -> tuple[OrderView, Position]:
        """The order, at least as new as `after`. Raises NotFound."""
        fresh = after is None or await self._projector.wait_for(after, READ_YOUR_WRITES_SECONDS_MAX)
        position = self._projector.position
        if fresh:
            async with self._database.read() as connection:
                row = (await connection.execute(ONE, {"order_id": order_id})).one_or_none()
            if row is not None:
                return _view(row), position
        # The view has not caught up with this order yet: the write side always has.
        order = await self.fold(order_id)
        if order is None:
            raise NotFound(f"there is no order {order_id}")
        return view_of(order, await self.parked_reason(order_id)), max(position, after or position)

    async def page(
        self, customer_id: str, limit: int, before: str, after: Position | None = None
    ) -> tuple[Page, Position]:
        """Orders below `before`, newest first; a page that cannot catch up with `after` in time says where it is."""
        if after is not None:
            await self._projector.wait_for(after, READ_YOUR_WRITES_SECONDS_MAX)
        position = self._projector.position
        statement = PAGE_OF_CUSTOMER if customer_id else PAGE
        async with self._database.read() as connection:
            rows = await connection.execute(
                statement, {"before": before or NEWEST, "limit": limit + 1}
                | ({"customer_id": customer_id} if customer_id else {}),
            )  # fmt: skip
            views = [_view(row) for row in rows]
        more = len(views) > limit
        return Page(views[:limit], views[limit - 1].order_id if more else ""), position

    async def events(self, order_id: str) -> Sequence[Recorded]:
        """Every event of the order, oldest first. Raises NotFound."""
        async with self._database.read() as connection:
            streams = await PostgresEventStore(connection).load([order_id])
        events = streams.get(order_id)
        if not events:
            raise NotFound(f"there is no order {order_id}")
        return events

    async def fold(self, order_id: str) -> Order | None:
        """The order as its events add up to now."""
        try:
            events = await self.events(order_id)
        except NotFound:
            return None
        return _fold(events)

    async def folds(self, order_ids: Sequence[str]) -> Mapping[str, Order]:
        """Those of these orders that exist, each as its events add up to now."""
        async with self._database.read() as connection:
            streams = await PostgresEventStore(connection).load(order_ids)
        return {order_id: _fold(events) for order_id, events in streams.items()}

    async def as_of(self, order_id: str, *, version: int | None = None, time: datetime | None = None) -> OrderView:
        """The order as it was: after its first `version` events, or at an instant. Raises NotFound before its time."""
        events = [
            event
            for event in await self.events(order_id)
            if (version is None or event.version <= version) and (time is None or event.recorded_at <= time)
        ]
        if not events:
            raise NotFound(f"order {order_id} did not exist then")
        return view_of(_fold(events))

    async def parked_reason(self, order_id: str) -> str:
        async with self._database.read() as connection:
            return str(await connection.scalar(PARKED, {"order_id": order_id}) or "")


def _fold(events: Sequence[Recorded]) -> Order:
    return fold(CODEC.decode(event.type, event.data) for event in events)


def _view(row: Row[*tuple[Any, ...]]) -> OrderView:
    (order_id, customer_id, status, reason, coordination, lines, total_minor, currency, ship_to,
     placed_at, updated_at, version, parked_reason) = row.tuple()  # fmt: skip
    return OrderView(
        order_id=order_id,
        customer_id=customer_id,
        status=status,
        reason=reason,
        coordination=coordination,
        lines=_json(lines, tuple[PricedLine, ...]),
        total=Money(total_minor, currency),
        ship_to=_json(ship_to, Address),
        placed_at=placed_at,
        updated_at=updated_at,
        version=version,
        parked_reason=parked_reason,
    )


def _json(value: Any, shape: Any) -> Any:
    return msgspec.json.decode(value, type=shape) if isinstance(value, str | bytes) else msgspec.convert(value, shape)
