"""One clean order in five real databases; then each kind of lie is told in SQL, and the audit must hear it."""

from collections.abc import Mapping
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from dockyard.audit.read import read
from dockyard.audit.rules import audit
from tests.conftest import MakeDatabase

SERVICES = Path(__file__).parents[3] / "services"

# An order of two lamps, confirmed: placed, charged, taken, shipped; and its view.
CLEAN: Mapping[str, tuple[str, ...]] = {
    "order": (
        "INSERT INTO streams VALUES ('ord_1', 2)",
        """
        INSERT INTO events (stream_id, version, type, data, traceparent, recorded_at) VALUES
        ('ord_1', 1, 'OrderPlaced', '{"lines": [{"sku": "lamp", "quantity": 2, "unit_price": null}],
                                      "total": {"minor_units": 9800, "currency": "EUR"},
                                      "coordination": "tcc"}', '', now()),
        ('ord_1', 2, 'OrderConfirmed', '{}', '', now())
        """,
        """
        INSERT INTO order_view VALUES
        ('ord_1', 'ada', 'confirmed', '', 'tcc', '[]', 9800, 'EUR', '{}', now(), now(), 2)
        """,
        """
        INSERT INTO sagas (saga_id, saga, version, status, input, traceparent, started_at, updated_at, outcome)
        VALUES ('ord_1', 'checkout', 1, 'ended', '{}', '', now(), now(), 'completed')
        """,
    ),
    "inventory": (
        "INSERT INTO products VALUES ('lamp', 'Lamp', 4900, 'EUR', 8, 0, 2, 10, 1)",
        """
        INSERT INTO deductions (transaction_id, lines, status)
        VALUES ('ord_1', '[{"sku": "lamp", "quantity": 2}]', 'deducted')
        """,
    ),
    "payment": (
        "INSERT INTO accounts VALUES ('ada', 'Ada')",
        """
        INSERT INTO payments (payment_id, transaction_id, step, account_id, amount_minor, currency, card_token, status,
                              created_at)
        VALUES ('pay_1', 'ord_1', 'charge', 'ada', 9800, 'EUR', 'tok_ok', 'charged', now())
        """,
        """
        INSERT INTO postings (entry_id, account, amount_minor, currency, memo, payment_id) VALUES
        ('pay_1/charge', 'customer:ada', 9800, 'EUR', 'charge', 'pay_1'),
        ('pay_1/charge', 'merchant', -9800, 'EUR', 'charge', 'pay_1')
        """,
    ),
    "shipping": (
        "INSERT INTO carriers VALUES ('gull', 'Gull')",
        "INSERT INTO carrier_zones VALUES ('gull', 'DE', 5)",
        "INSERT INTO capacity_days VALUES ('gull', 'DE', '2026-02-01', 1)",
        """
        INSERT INTO shipments VALUES
        ('shp_1', 'ord_1', 'gull', 'DE', '2026-02-01', 1, '{}', 'released', 'LABEL', now())
        """,
    ),
    "psp": (
        """
        INSERT INTO charges (charge_id, key, reference, amount_minor, currency, status)
        VALUES ('ch_1', 'k', 'pay_1', 9800, 'EUR', 'captured')
        """,
    ),
}

LIES: Mapping[str, tuple[str, str, str]] = {
    "an order nobody works on": ("order", "DELETE FROM events WHERE version = 2", "G1 abandoned ord_1"),
    "a second charge": (
        "psp",
        """
        INSERT INTO charges (charge_id, key, reference, amount_minor, currency, status)
        VALUES ('ch_2', 'k2', 'pay_1', 9800, 'EUR', 'captured')
        """,
        "G2 charged-twice ord_1",
    ),
    "a charge given back": ("psp", "UPDATE charges SET refunded_minor = 9800", "G3 not-paid-once ord_1"),
    "another total": (
        "order",
        "UPDATE events SET data = jsonb_set(data, '{total,minor_units}', '1') WHERE version = 1",
        "G3 wrong-amount ord_1",
    ),
    "stock put back": ("inventory", "UPDATE deductions SET status = 'restocked'", "G3 stock-not-taken ord_1"),
    "a shipment cancelled": ("shipping", "UPDATE shipments SET status = 'cancelled'", "G3 no-live-shipment ord_1"),
    "a rejected order that keeps everything": (
        "order",
        "UPDATE events SET type = 'OrderRejected' WHERE version = 2",
        "G4 money-kept ord_1",
    ),
    "money that was only authorised": ("psp", "UPDATE charges SET status = 'authorised'", "G3 hold-left ord_1"),
    "an authorisation that was never captured": (
        "payment",
        "UPDATE payments SET status = 'authorised', lease_until = now()",
        "G3 hold-left ord_1",
    ),
    "stock still held": (
        "inventory",
        "UPDATE deductions SET status = 'held', lease_until = now()",
        "G3 hold-left ord_1",
    ),
    "a place still held": (
        "shipping",
        "UPDATE shipments SET status = 'held', lease_until = now()",
        "G3 hold-left ord_1",
    ),
    "more reserved than held": (
        "inventory",
        "UPDATE products SET on_hand = on_hand - 1, reserved = reserved + 1",
        "G5 reserved-mismatch lamp",
    ),
    "a choreography that everybody forgot": (
        "order",
        """
        INSERT INTO choreographies (order_id, traceparent, status, started_at, moved_at, deadline_at)
        VALUES ('ord_1', '', 'running', now(), now(), now() - interval '1 minute')
        """,
        "G1 choreography-overdue ord_1",
    ),
    "calls in a row that nobody goes on with": (
        "order",
        """
        WITH gone AS (DELETE FROM sagas), less AS (DELETE FROM events WHERE version = 2)
        UPDATE events SET data = data || '{"coordination": "naive"}' WHERE version = 1
        """,
        "G4 money-kept ord_1",
    ),
    "an effect without an order": (
        "inventory",
        "INSERT INTO deductions (transaction_id, lines, status) VALUES ('ord_9', '[]', 'restocked')",
        "G4 orphan-deduction ord_9",
    ),
    "half a ledger entry": (
        "payment",
        "DELETE FROM postings WHERE account = 'merchant'",
        "G5 entry-unbalanced pay_1/charge",
    ),
    "a ledger that forgot": ("payment", "DELETE FROM postings", "G5 ledger-differs pay_1"),
    "stock from nowhere": (
        "inventory",
        "UPDATE products SET on_hand = on_hand + 1, sold = sold - 1",
        "G5 sold-differs lamp",
    ),
    "a day oversold": ("shipping", "UPDATE carrier_zones SET parcels_per_day = 0", "G5 capacity-oversold gull"),
    "a day miscounted": ("shipping", "UPDATE capacity_days SET booked = 3", "G5 capacity-differs gull"),
    "a view that lags": ("order", "UPDATE order_view SET status = 'pending', version = 1", "G10 view-differs ord_1"),
}


@pytest_asyncio.fixture
async def databases(make_database: MakeDatabase) -> dict[str, str]:
    urls = {name: await make_database(f"audit-{name}", SERVICES / name / "migrations") for name in CLEAN}
    for name, statements in CLEAN.items():
        await told(urls[name], *statements)
    return urls


async def told(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def test_a_clean_order_has_no_violation(databases: dict[str, str]) -> None:
    assert audit(await read(databases)) == []


@pytest.mark.parametrize(("service", "lie", "expected"), LIES.values(), ids=LIES.keys())
async def test_a_lie_told_in_sql_is_heard(databases: dict[str, str], service: str, lie: str, expected: str) -> None:
    await told(databases[service], lie)
    found = [f"{one.guarantee} {one.rule} {one.ids[0]}" for one in audit(await read(databases))]
    assert expected in found


async def test_a_transaction_left_prepared_is_found_in_any_database(databases: dict[str, str]) -> None:
    for name, url in databases.items():
        gid = f"dockyard/{name}/ord_1"
        await told(url, "BEGIN", "CREATE TABLE kept (at int)", f"PREPARE TRANSACTION '{gid}'")
        try:
            found = audit(await read(databases))
        finally:
            await told(url, f"ROLLBACK PREPARED '{gid}'")
        assert [(one.guarantee, one.rule, one.ids, one.coordination) for one in found] == [
            ("G3", "prepared-left", ("ord_1", gid), "tcc")
        ]
    assert audit(await read(databases)) == []
