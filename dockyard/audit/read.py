"""Reads the records from the five databases, each in one read-only snapshot of its own."""

import asyncio
from collections.abc import Mapping
from typing import Any

import asyncpg
import msgspec

from dockyard.audit.records import (
    BalanceRecord,
    CapacityRecord,
    ChargeRecord,
    ChoreographyRecord,
    DeductionRecord,
    EntryRecord,
    OrderRecord,
    PaymentRecord,
    PreparedRecord,
    ProductRecord,
    Records,
    SagaRecord,
    ShipmentRecord,
    ViewRecord,
)
from libs.kernel.errors import Unavailable

CONNECT_SECONDS = 10.0
# A million orders are read in well under this.
STATEMENT_SECONDS = 120.0

SERVICES = ("order", "inventory", "payment", "shipping", "psp")

# An order's status is the one its last deciding event gave it: the audit folds the events itself.
ORDERS = """
    SELECT placed.stream_id,
           coalesce((SELECT CASE type WHEN 'OrderConfirmed' THEN 'confirmed' WHEN 'OrderRejected' THEN 'rejected'
                                      WHEN 'OrderCancelled' THEN 'cancelled' WHEN 'OrderShipped' THEN 'shipped' END
                       FROM events AS last
                      WHERE last.stream_id = placed.stream_id
                        AND type IN ('OrderConfirmed', 'OrderRejected', 'OrderCancelled', 'OrderShipped')
                      ORDER BY version DESC LIMIT 1), 'pending'),
           (SELECT max(version) FROM events AS every WHERE every.stream_id = placed.stream_id),
           (data->'total'->>'minor_units')::bigint, data->'total'->>'currency', (data->'lines')::text,
           data->>'coordination'
      FROM events AS placed WHERE version = 1
"""
VIEWS = "SELECT order_id, status, version, total_minor FROM order_view"
SAGAS = "SELECT saga_id, status, parked_reason FROM sagas"
CHOREOGRAPHIES = """
    SELECT order_id, status, coalesce(parked_reason, ''), extract(epoch FROM now() - deadline_at)::float8
      FROM choreographies
"""
PRODUCTS = "SELECT sku, on_hand, reserved, sold, received FROM products"
DEDUCTIONS = "SELECT transaction_id, status, lines::text FROM deductions"
PAYMENTS = "SELECT payment_id, transaction_id, account_id, amount_minor, currency, status FROM payments"
ENTRIES = "SELECT entry_id, currency, sum(amount_minor)::bigint FROM postings GROUP BY entry_id, currency"
BALANCES = """
    SELECT payment_id, sum(amount_minor)::bigint FROM postings WHERE account LIKE 'customer:%' GROUP BY payment_id
"""
CAPACITIES = """
    SELECT carrier_id, zone, ship_date::text, booked, parcels_per_day
      FROM capacity_days JOIN carrier_zones USING (carrier_id, zone)
"""
SHIPMENTS = """
    SELECT shipment_id, transaction_id, carrier_id, zone, ship_date::text, status, parcels FROM shipments
"""
CHARGES = "SELECT charge_id, reference, amount_minor, currency, refunded_minor, status FROM charges"
# Prepared transactions are not part of a snapshot: these are the ones of the moment of the question. Ours are named
# dockyard/<service>/<transaction>, whatever else is there belongs to no order.
PREPARED = """
    SELECT gid, CASE WHEN gid LIKE 'dockyard/%/%' THEN substring(gid FROM '^dockyard/[^/]+/(.*)$') ELSE '' END,
           extract(epoch FROM now() - prepared)::float8
      FROM pg_prepared_xacts WHERE database = current_database()
"""

_STATUSES = {"running": "running", "undoing": "running", "parked": "parked", "ended": "ended"}


class _Line(msgspec.Struct):
    sku: str
    quantity: int


_decode_lines = msgspec.json.Decoder(list[_Line]).decode


async def read(database_urls: Mapping[str, str]) -> Records:
    """All records. Raises Unavailable when a database cannot be read."""
    order, inventory, payment, shipping, psp = await asyncio.gather(
        _rows(
            "order",
            database_urls,
            {"orders": ORDERS, "views": VIEWS, "sagas": SAGAS, "choreographies": CHOREOGRAPHIES},
        ),
        _rows("inventory", database_urls, {"products": PRODUCTS, "deductions": DEDUCTIONS}),
        _rows("payment", database_urls, {"payments": PAYMENTS, "entries": ENTRIES, "balances": BALANCES}),
        _rows("shipping", database_urls, {"capacities": CAPACITIES, "shipments": SHIPMENTS}),
        _rows("psp", database_urls, {"charges": CHARGES}),
    )
    return Records(
        orders=[
            OrderRecord(order_id, status, version, total_minor, currency, _lines(lines), coordination)
            for order_id, status, version, total_minor, currency, lines, coordination in order["orders"]
        ],
        views=[ViewRecord(*row) for row in order["views"]],
        sagas=[SagaRecord(row[0], _STATUSES[row[1]], row[2]) for row in order["sagas"]],
        choreographies=[ChoreographyRecord(*row) for row in order["choreographies"]],
        products=[ProductRecord(*row) for row in inventory["products"]],
        deductions=[DeductionRecord(row[0], row[1], _lines(row[2])) for row in inventory["deductions"]],
        payments=[PaymentRecord(*row) for row in payment["payments"]],
        entries=[EntryRecord(*row) for row in payment["entries"]],
        balances=[BalanceRecord(*row) for row in payment["balances"]],
        capacities=[CapacityRecord(*row) for row in shipping["capacities"]],
        shipments=[ShipmentRecord(*row) for row in shipping["shipments"]],
        charges=[ChargeRecord(*row) for row in psp["charges"]],
        prepared=[
            PreparedRecord(service, *row)
            for service, found in zip(SERVICES, (order, inventory, payment, shipping, psp), strict=True)
            for row in found["prepared"]
        ],
    )


async def _rows(service: str, urls: Mapping[str, str], queries: Mapping[str, str]) -> dict[str, list[tuple[Any, ...]]]:
    """The answers of one database, all from the same instant, and what it keeps prepared."""
    queries = {**queries, "prepared": PREPARED}
    try:
        connection = await asyncpg.connect(urls[service], timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return {name: [tuple(row) for row in await connection.fetch(query)] for name, query in queries.items()}
        finally:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise Unavailable(f"the database of {service} cannot be read ({error}); try `dockyard status`") from error


def _lines(lines: str) -> dict[str, int]:
    return {line.sku: line.quantity for line in _decode_lines(lines)}
