"""Reads what became of each order from the services' own records: its life, and its customer's statement."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from dockyard.compare.intervals import Effect, Life
from libs.kernel.errors import Unavailable

CONNECT_SECONDS = 10.0
# Some hundred thousand rows are read in well under this.
STATEMENT_SECONDS = 120.0
PARTICIPANTS = ("inventory", "payment", "shipping")

# Every order with its style, and the first event that decided it.
LIVES = """
    SELECT placed.stream_id, placed.data->>'coordination', placed.recorded_at, decided.recorded_at,
           CASE WHEN decided.type = 'OrderConfirmed' THEN 'confirmed'
                WHEN decided.type IS NULL THEN '' ELSE 'unconfirmed' END
      FROM events AS placed
      LEFT JOIN LATERAL (
               SELECT type, recorded_at FROM events AS later
                WHERE later.stream_id = placed.stream_id
                  AND type IN ('OrderConfirmed', 'OrderRejected', 'OrderCancelled')
                ORDER BY version LIMIT 1
           ) AS decided ON true
     WHERE placed.version = 1
"""
# What was done for each order; a do that its undo ruled out never happened.
EFFECTS = """
    SELECT transaction_id, step, operation, manner, created_at,
           coalesce(convert_from(answer, 'UTF8')::jsonb->>'code', '') <> ''
      FROM barrier
     WHERE transaction_id LIKE 'ord%' AND NOT (operation = 'do' AND inserted_by = 'undo')
     ORDER BY created_at
"""
# Other names under which an order's things are known.
PAYMENT_IDS = "SELECT payment_id, transaction_id FROM payments"
SHIPMENT_IDS = "SELECT shipment_id, transaction_id FROM shipments"
# What the customers' accounts show of these orders, oldest first.
STATEMENT = """
    SELECT transaction_id, memo, postings.amount_minor
      FROM postings JOIN payments USING (payment_id)
     WHERE transaction_id = ANY($1) AND account LIKE 'customer:%'
     ORDER BY transaction_id, posting_id
"""


@dataclass(frozen=True, slots=True)
class Statement:
    """What customers see of orders that shipping refused: the lines of each, as a text, and how many orders show it."""

    orders: int
    shows: Mapping[str, int]
    lines_per_order: float
    kept_minor_units: int


async def read_lives(database_urls: Mapping[str, str]) -> dict[str, Life]:
    """Every order that was placed, by its id. Raises Unavailable."""
    found = await asyncio.gather(
        _rows("order", database_urls, LIVES), *(_rows(name, database_urls, EFFECTS) for name in PARTICIPANTS)
    )
    orders, effects = found[0], found[1:]
    lives = {
        order_id: Life(order_id, coordination, placed_at, decided_at, decision)
        for order_id, coordination, placed_at, decided_at, decision in orders
    }
    for rows in effects:
        for order_id, step, operation, manner, at, refused in rows:
            if order_id in lives:
                lives[order_id].effects.append(Effect(step, operation, manner, at, refused))
    return lives


async def read_names(database_urls: Mapping[str, str]) -> dict[str, str]:
    """The order that each payment and each shipment is of. Raises Unavailable."""
    payments, shipments = await asyncio.gather(
        _rows("payment", database_urls, PAYMENT_IDS), _rows("shipping", database_urls, SHIPMENT_IDS)
    )
    return dict([*payments, *shipments])


async def read_statement(database_urls: Mapping[str, str], refused: Collection[str]) -> Statement:
    """What the customers of these orders see. Raises Unavailable."""
    rows = await _rows("payment", database_urls, STATEMENT, sorted(refused))
    return statement(refused, rows)


def statement(refused: Collection[str], rows: list[tuple[str, str, int]]) -> Statement:
    """The same from its rows: order, memo, amount."""
    lines: dict[str, list[str]] = {order_id: [] for order_id in refused}
    for order_id, memo, _ in rows:
        lines[order_id].append(memo)
    shows = Counter(", ".join(memos) or "nothing" for memos in lines.values())
    return Statement(
        orders=len(lines),
        shows=dict(shows.most_common()),
        lines_per_order=round(len(rows) / max(len(lines), 1), 2),
        kept_minor_units=abs(sum(amount for _, _, amount in rows)),
    )


async def _rows(service: str, urls: Mapping[str, str], query: str, *values: Any) -> list[tuple[Any, ...]]:
    try:
        connection = await asyncpg.connect(urls[service], timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS)
        try:
            return [tuple(row) for row in await connection.fetch(query, *values)]
        finally:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise Unavailable(f"the database of {service} cannot be read ({error}); try `dockyard status`") from error
