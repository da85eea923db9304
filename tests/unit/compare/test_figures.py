"""From counters, records and violations to the figures of a style."""

from datetime import UTC, datetime

from dockyard.audit.evidence import Violation
from dockyard.compare.counters import Counters, grpc_calls, loopback_bytes
from dockyard.compare.intervals import Life
from dockyard.compare.read import statement
from dockyard.compare.run import blame, cost_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NET_DEV = """Inter-|   Receive                                    |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo: 123456 789 0 0 0 0 0 0 123456 789 0 0 0 0 0 0
  eth0:     99   1 0 0 0 0 0 0     77   1 0 0 0 0 0 0
"""
METRICS = """# TYPE dockyard_grpc_calls_total counter
dockyard_grpc_calls_total{method="inventory.v1.InventoryService/ExecuteBatch",code="OK"} 40.0
dockyard_grpc_calls_total{method="inventory.v1.InventoryService/ExecuteBatch",code="UNAVAILABLE"} 2.0
dockyard_grpc_calls_total{method="grpc.health.v1.Health/Check",code="OK"} 1000.0
dockyard_grpc_calls_created{method="inventory.v1.InventoryService/ExecuteBatch",code="OK"} 1.7e+09
"""


def test_the_difference_of_two_readings_is_what_was_used_between_them() -> None:
    before = Counters({"order": 1.0, "load": 0.5}, 10, 1000, 5, 50, 3, 7)
    after = Counters({"order": 3.0, "load": 1.0}, 30, 5000, 25, 250, 13, 107)

    cost = cost_of(after - before, 10)

    assert (cost.cpu_ms, cost.cpu_ms_by_process) == (250.0, {"order": 200.0, "load": 50.0})
    assert (cost.writing_transactions, cost.wal_bytes, cost.messages) == (2.0, 400, 2.0)
    assert (cost.redis_bytes, cost.grpc_calls, cost.loopback_bytes) == (20, 1.0, 10)
    assert (Counters() + after) - after == Counters({"order": 0.0, "load": 0.0})


def test_calls_are_counted_whatever_came_of_them_and_health_checks_are_not() -> None:
    assert grpc_calls(METRICS) == 42


def test_what_the_loopback_carried_counts_once() -> None:
    assert loopback_bytes(NET_DEV) == 123456
    assert loopback_bytes("") == 0


def test_a_statement_shows_what_was_charged_and_what_was_given_back() -> None:
    rows = [("ord_1", "charge", 500), ("ord_1", "refund", -500), ("ord_2", "charge", 300)]

    found = statement(["ord_1", "ord_2", "ord_3"], rows)

    assert found.shows == {"charge, refund": 1, "charge": 1, "nothing": 1}
    assert (found.orders, found.lines_per_order, found.kept_minor_units) == (3, 1.0, 300)


def test_a_violation_is_blamed_on_the_style_of_its_order() -> None:
    lives = {"ord_1": Life("ord_1", "naive", NOON)}
    kept = Violation("G4", "money-kept", ("ord_1", "ch_1"), "kept 5 EUR")
    differs = Violation("G5", "ledger-differs", ("pay_1",), "the processor kept 5", "naive")
    totals = Violation("G5", "stock-lost", ("SKU-0001",), "1 received")

    blamed = blame([kept, differs, totals], lives, {"pay_1": "ord_1"})

    assert blamed["naive"] == [(kept, lives["ord_1"]), (differs, lives["ord_1"])]
    assert blamed[""] == [(totals, None)]
