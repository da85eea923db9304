"""Each kind of violation is planted into clean records and must be reported, with the ids that find it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from dockyard.audit.records import (
    BalanceRecord,
    CapacityRecord,
    ChargeRecord,
    DeductionRecord,
    EntryRecord,
    OrderRecord,
    PaymentRecord,
    ProductRecord,
    Records,
    SagaRecord,
    ShipmentRecord,
    ViewRecord,
)
from dockyard.audit.rules import audit

CLEAN = Records(
    orders=(
        OrderRecord("ord_1", "confirmed", 2, 9800, "EUR", {"lamp": 2}),
        OrderRecord("ord_2", "rejected", 2, 250, "EUR", {"rope": 1}),
        OrderRecord("ord_3", "pending", 1, 250, "EUR", {"rope": 1}),
    ),
    views=(
        ViewRecord("ord_1", "confirmed", 2, 9800),
        ViewRecord("ord_2", "rejected", 2, 250),
        ViewRecord("ord_3", "pending", 1, 250),
    ),
    sagas=(SagaRecord("ord_1", "ended", ""), SagaRecord("ord_2", "ended", ""), SagaRecord("ord_3", "running", "")),
    products=(ProductRecord("lamp", 8, 0, 2, 10), ProductRecord("rope", 10, 0, 0, 10)),
    deductions=(DeductionRecord("ord_1", "deducted", {"lamp": 2}), DeductionRecord("ord_2", "restocked", {"rope": 1})),
    payments=(
        PaymentRecord("pay_1", "ord_1", "ada", 9800, "EUR", "charged"),
        PaymentRecord("pay_2", "ord_2", "bob", 250, "EUR", "refunded"),
    ),
    entries=(EntryRecord("ent_1", "EUR", 0),),
    balances=(BalanceRecord("pay_1", 9800), BalanceRecord("pay_2", 0)),
    capacities=(CapacityRecord("gull", "DE", "2026-02-01", 1, 5),),
    shipments=(
        ShipmentRecord("shp_1", "ord_1", "gull", "DE", "2026-02-01", "released", 1),
        ShipmentRecord("shp_2", "ord_2", "gull", "DE", "2026-02-01", "cancelled", 1),
    ),
    charges=(ChargeRecord("ch_1", "pay_1", 9800, "EUR", 0), ChargeRecord("ch_2", "pay_2", 250, "EUR", 250)),
)

Plant = Callable[[Records], Records]


def test_clean_records_have_no_violation() -> None:
    assert audit(CLEAN) == []


def first(field: str, **changes: object) -> Plant:
    """Changes the first row of one kind of record."""

    def plant(records: Records) -> Records:
        head, *rest = getattr(records, field)
        return replace(records, **{field: (replace(head, **changes), *rest)})

    return plant


def second(field: str, **changes: object) -> Plant:
    def plant(records: Records) -> Records:
        head, other, *rest = getattr(records, field)
        return replace(records, **{field: (head, replace(other, **changes), *rest)})

    return plant


def extra(field: str, row: object) -> Plant:
    return lambda records: replace(records, **{field: (*getattr(records, field), row)})


def without_first(field: str) -> Plant:
    return lambda records: replace(records, **{field: getattr(records, field)[1:]})


PLANTS: dict[str, tuple[Plant, str]] = {
    "a pending order that no saga knows": (
        lambda records: replace(records, sagas=records.sagas[:2]),
        "G1 abandoned ord_3",
    ),
    "a pending order whose saga ended": (
        lambda records: replace(records, sagas=(*records.sagas[:2], SagaRecord("ord_3", "ended", ""))),
        "G1 abandoned ord_3",
    ),
    "a saga parked without a reason": (
        lambda records: replace(records, sagas=(*records.sagas[:2], SagaRecord("ord_3", "parked", ""))),
        "G1 parked-without-reason ord_3",
    ),
    "a second charge": (extra("charges", ChargeRecord("ch_9", "pay_1", 9800, "EUR", 0)), "G2 charged-twice ord_1"),
    "a second deduction": (
        extra("deductions", DeductionRecord("ord_1", "deducted", {"lamp": 2})),
        "G2 deducted-twice ord_1",
    ),
    "a second shipment": (
        extra("shipments", ShipmentRecord("shp_9", "ord_1", "gull", "DE", "2026-02-01", "booked", 1)),
        "G2 shipped-twice ord_1",
    ),
    "more refunded than charged": (second("charges", refunded_minor=500), "G2 refunded-too-much ch_2"),
    "confirmed, never charged": (without_first("charges"), "G3 not-paid-once ord_1"),
    "confirmed, charge refunded": (first("charges", refunded_minor=9800), "G3 not-paid-once ord_1"),
    "confirmed, wrong amount": (first("charges", amount_minor=1), "G3 wrong-amount ord_1"),
    "confirmed, stock put back": (first("deductions", status="restocked"), "G3 stock-not-taken ord_1"),
    "confirmed, other stock taken": (first("deductions", lines={"lamp": 1}), "G3 wrong-stock ord_1"),
    "confirmed, shipment cancelled": (first("shipments", status="cancelled"), "G3 no-live-shipment ord_1"),
    "rejected, money kept": (second("charges", refunded_minor=0), "G4 money-kept ord_2"),
    "rejected, stock kept": (second("deductions", status="deducted"), "G4 stock-kept ord_2"),
    "rejected, shipment kept": (second("shipments", status="booked"), "G4 shipment-kept ord_2"),
    "an effect of an order that does not exist": (
        extra("deductions", DeductionRecord("ord_9", "restocked", {})),
        "G4 orphan-deduction ord_9",
    ),
    "a charge that no payment knows": (
        extra("charges", ChargeRecord("ch_9", "pay_9", 100, "EUR", 0)),
        "G4 orphan-charge ch_9",
    ),
    "an entry that does not balance": (first("entries", sum_minor=1), "G5 entry-unbalanced ent_1"),
    "a payment the ledger missed": (first("balances", charged_minor=0), "G5 ledger-differs pay_1"),
    "a payment the processor never made": (without_first("charges"), "G5 processor-differs pay_1"),
    "stock that vanished": (first("products", on_hand=7), "G5 stock-lost lamp"),
    "stock below zero": (first("products", on_hand=-1, sold=11), "G5 stock-lost lamp"),
    "sold without a deduction": (first("products", sold=3, on_hand=7), "G5 sold-differs lamp"),
    "a day oversold": (first("capacities", parcels_per_day=0), "G5 capacity-oversold gull"),
    "a day miscounted": (first("capacities", booked=2), "G5 capacity-differs gull"),
    "a booking on a day nobody counts": (without_first("capacities"), "G5 capacity-differs gull"),
    "a view that misses an order": (without_first("views"), "G10 view-misses-order ord_1"),
    "a view that lags": (first("views", status="pending", version=1), "G10 view-differs ord_1"),
    "a view that invents an order": (
        extra("views", ViewRecord("ord_9", "confirmed", 2, 1)),
        "G10 view-invents-order ord_9",
    ),
}


@pytest.mark.parametrize(("plant", "expected"), PLANTS.values(), ids=PLANTS.keys())
def test_a_planted_violation_is_reported(plant: Plant, expected: str) -> None:
    found = [f"{violation.guarantee} {violation.rule} {violation.ids[0]}" for violation in audit(plant(CLEAN))]
    assert expected in found
