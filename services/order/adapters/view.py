"""The order view: what readers see of orders, folded from their events in commit order."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.eventsourcing.store import Recorded
from libs.kernel.money import Money
from libs.runtime.sql import bigints, instants, integers, texts
from services.order.adapters.codec import CODEC
from services.order.domain import Address, Order, OrderPlaced, Status, evolve, opened

VIEW_NAME = "order_view"

# Every order placed in this batch, as it stands after the batch.
INSERT = text(
    """
    INSERT INTO order_view (order_id, customer_id, status, reason, coordination, lines, total_minor, currency,
                            ship_to, placed_at, updated_at, version)
    SELECT order_id, customer_id, status, reason, coordination, lines::jsonb, total_minor, currency,
           ship_to::jsonb, placed_at, updated_at, version
      FROM unnest(:order_id, :customer_id, :status, :reason, :coordination, :lines, :total_minor, :currency,
                  :ship_to, :placed_at, :updated_at, :version)
           AS new (order_id, customer_id, status, reason, coordination, lines, total_minor, currency,
                   ship_to, placed_at, updated_at, version)
    ON CONFLICT (order_id) DO NOTHING
    """
).bindparams(
    *texts("order_id", "customer_id", "status", "reason", "coordination", "lines", "currency", "ship_to"),
    *bigints("total_minor"),
    *instants("placed_at", "updated_at"),
    *integers("version"),
)

# Every older order this batch changed, as it stands after the batch.
UPDATE = text(
    """
    UPDATE order_view AS view
       SET status = new.status, reason = new.reason, updated_at = new.updated_at, version = new.version
      FROM unnest(:order_id, :status, :reason, :updated_at, :version)
           AS new (order_id, status, reason, updated_at, version)
     WHERE view.order_id = new.order_id AND view.version < new.version
    """
).bindparams(*texts("order_id", "status", "reason"), *instants("updated_at"), *integers("version"))

# What the older orders looked like before this batch, as much of it as a change needs.
STATUSES = text("SELECT order_id, status, reason, version FROM order_view WHERE order_id = ANY(:order_ids)").bindparams(
    *texts("order_ids")
)


async def apply(connection: AsyncConnection, events: Sequence[Recorded]) -> None:
    """Brings the view up to these events: one insert, one update, however many there are."""
    placed: dict[str, Order] = {}
    changed: dict[str, list[Recorded]] = {}
    for recorded in events:
        if recorded.version == 1:
            event = CODEC.decode(recorded.type, recorded.data)
            assert isinstance(event, OrderPlaced), recorded.type
            placed[recorded.stream_id] = opened(event)
        elif recorded.stream_id in placed:
            event = CODEC.decode(recorded.type, recorded.data)
            assert not isinstance(event, OrderPlaced), recorded.stream_id
            placed[recorded.stream_id] = evolve(placed[recorded.stream_id], event)
        else:
            changed.setdefault(recorded.stream_id, []).append(recorded)
    if placed:
        await connection.execute(INSERT, _insert_columns(list(placed.values())))
    if changed:
        await _update(connection, changed)


async def _update(connection: AsyncConnection, changed: Mapping[str, Sequence[Recorded]]) -> None:
    rows = await connection.execute(STATUSES, {"order_ids": list(changed)})
    before = {order_id: (status, reason) for order_id, status, reason, _ in rows}
    after = [_after(order_id, *before[order_id], events) for order_id, events in changed.items()]
    columns = zip(*after, strict=True)
    names = ("order_id", "status", "reason", "updated_at", "version")
    await connection.execute(UPDATE, {name: list(values) for name, values in zip(names, columns, strict=True)})


def _after(order_id: str, status: str, reason: str, events: Sequence[Recorded]) -> tuple[str, str, str, datetime, int]:
    """Folds the events onto the part of an order that they change."""
    order = _shell(order_id, Status(status), reason, events[0])
    for recorded in events:
        event = CODEC.decode(recorded.type, recorded.data)
        assert not isinstance(event, OrderPlaced), order_id
        order = evolve(order, event)
    return order_id, order.status.value, order.reason, order.updated_at, events[-1].version


def _shell(order_id: str, status: Status, reason: str, first: Recorded) -> Order:
    at = first.recorded_at
    nowhere = Address("", "", "", "", "")
    return Order(order_id, "", status, reason, "", (), Money(0, "EUR"), "", nowhere, at, at, first.version - 1)


def _insert_columns(orders: Sequence[Order]) -> dict[str, list[Any]]:
    return {
        "order_id": [order.order_id for order in orders],
        "customer_id": [order.customer_id for order in orders],
        "status": [order.status.value for order in orders],
        "reason": [order.reason for order in orders],
        "coordination": [order.coordination for order in orders],
        "lines": [msgspec.json.encode(order.lines).decode() for order in orders],
        "total_minor": [order.total.minor_units for order in orders],
        "currency": [order.total.currency for order in orders],
        "ship_to": [msgspec.json.encode(order.ship_to).decode() for order in orders],
        "placed_at": [order.placed_at for order in orders],
        "updated_at": [order.updated_at for order in orders],
        "version": [order.version for order in orders],
    }
