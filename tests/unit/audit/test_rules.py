"""Each kind of violation is planted into clean records and must be reported, with the ids that find it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from dockyard.audit.evidence import gather
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
from dockyard.audit.rules import RULES, audit

# In that order: confirmed, rejected and pending under the saga; pending under TCC with everything held, rejected under
# two-phase commit, pending and choreographed.
CLEAN = Records(
    orders=(
        OrderRecord("ord_1", "confirmed", 2, 9800, "EUR", {"lamp": 2}, "orchestrated"),
        OrderRecord("ord_2", "rejected", 2, 250, "EUR", {"rope": 1}, "orchestrated"),
        OrderRecord("ord_3", "pending", 1, 250, "EUR", {"rope": 1}, "orchestrated"),
        OrderRecord("ord_4", "pending", 1, 750, "EUR", {"rope": 3}, "tcc"),
        OrderRecord("ord_5", "rejected", 2, 250, "EUR", {"rope": 1}, "twophase"),
        OrderRecord("ord_6", "pending", 1, 250, "EUR", {"rope": 1}, "choreographed"),
    ),
    views=(
        ViewRecord("ord_1", "confirmed", 2, 9800),
        ViewRecord("ord_2", "rejected", 2, 250),
        ViewRecord("ord_3", "pending", 1, 250),
        ViewRecord("ord_4", "pending", 1, 750),
        ViewRecord("ord_5", "rejected", 2, 250),
        ViewRecord("ord_6", "pending", 1, 250),
    ),
    sagas=(
        SagaRecord("ord_1", "ended", ""),
        SagaRecord("ord_2", "ended", ""),
        SagaRecord("ord_3", "running", ""),
        SagaRecord("ord_4", "running", ""),
        SagaRecord("ord_5", "ended", ""),
    ),
    choreographies=(ChoreographyRecord("ord_6", "running", "", -20.0),),
    products=(ProductRecord("lamp", 8, 0, 2, 10), ProductRecord("rope", 7, 3, 0, 10)),
    deductions=(
        DeductionRecord("ord_1", "deducted", {"lamp": 2}),
        DeductionRecord("ord_2", "restocked", {"rope": 1}),
        DeductionRecord("ord_4", "held", {"rope": 3}),
    ),
    payments=(
        PaymentRecord("pay_1", "ord_1", "ada", 9800, "EUR", "charged"),
        PaymentRecord("pay_2", "ord_2", "bob", 250, "EUR", "refunded"),
        PaymentRecord("pay_4", "ord_4", "bob", 750, "EUR", "authorised"),
        PaymentRecord("pay_5", "ord_5", "eve", 250, "EUR", "voided"),
    ),
    entries=(EntryRecord("ent_1", "EUR", 0),),
    balances=(BalanceRecord("pay_1", 9800), BalanceRecord("pay_2", 0)),
    capacities=(CapacityRecord("gull", "DE", "2026-02-01", 2, 5),),
    shipments=(
        ShipmentRecord("shp_1", "ord_1", "gull", "DE", "2026-02-01", "released", 1),
        ShipmentRecord("shp_2", "ord_2", "gull", "DE", "2026-02-01", "cancelled", 1),
        ShipmentRecord("shp_4", "ord_4", "gull", "DE", "2026-02-01", "held", 1),
    ),
    charges=(
        ChargeRecord("ch_1", "pay_1", 9800, "EUR", 0, "captured"),
        ChargeRecord("ch_2", "pay_2", 250, "EUR", 250, "captured"),
        ChargeRecord("ch_4", "pay_4", 750, "EUR", 0, "authorised"),
        ChargeRecord("ch_5", "pay_5", 250, "EUR", 0, "voided"),
    ),
    prepared=(PreparedRecord("inventory", "dockyard/inventory/ord_4", "ord_4", 2.0),),
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


def extra(field: str, row: object) -> Plant:
    return lambda records: replace(records, **{field: (*getattr(records, field), row)})


def without_first(field: str) -> Plant:
    return lambda records: replace(records, **{field: getattr(records, field)[1:]})


def instead(field: str, place: int, **changes: object) -> Plant:
    """Changes the row at this place, counted from 0."""

    def plant(records: Records) -> Records:
        rows = list(getattr(records, field))
        rows[place] = replace(rows[place], **changes)
        return replace(records, **{field: tuple(rows)})

    return plant


def without(field: str, place: int) -> Plant:
    def plant(records: Records) -> Records:
        rows = list(getattr(records, field))
        del rows[place]
        return replace(records, **{field: tuple(rows)})

    return plant


def planted(*plants: Plant) -> Plant:
    def plant(records: Records) -> Records:
        for one in plants:
            records = one(records)
        return records

    return plant


def naive(*further: Plant) -> Plant:
    """The third order becomes one whose calls were made in a row, by somebody who is gone."""
    return planted(instead("orders", 2, coordination="naive"), without("sagas", 2), *further)


CHARGED = planted(
    extra("payments", PaymentRecord("pay_3", "ord_3", "bob", 250, "EUR", "charged")),
    extra("charges", ChargeRecord("ch_3", "pay_3", 250, "EUR", 0, "captured")),
)


PLANTS: dict[str, tuple[Plant, str]] = {
    "a pending order that no saga knows": (without("sagas", 2), "G1 abandoned ord_3"),
    "a pending order whose saga ended": (instead("sagas", 2, status="ended"), "G1 abandoned ord_3"),
    "a saga parked without a reason": (
        instead("sagas", 2, status="parked"),
        "G1 parked-without-reason ord_3",
    ),
    "a second charge": (
        extra("charges", ChargeRecord("ch_9", "pay_1", 9800, "EUR", 0, "captured")),
        "G2 charged-twice ord_1",
    ),
    "a second deduction": (
        extra("deductions", DeductionRecord("ord_1", "deducted", {"lamp": 2})),
        "G2 deducted-twice ord_1",
    ),
    "a second shipment": (
        extra("shipments", ShipmentRecord("shp_9", "ord_1", "gull", "DE", "2026-02-01", "booked", 1)),
        "G2 shipped-twice ord_1",
    ),
    "more refunded than charged": (instead("charges", 1, refunded_minor=500), "G2 refunded-too-much ch_2"),
    "confirmed, never charged": (without_first("charges"), "G3 not-paid-once ord_1"),
    "confirmed, charge refunded": (first("charges", refunded_minor=9800), "G3 not-paid-once ord_1"),
    "confirmed, wrong amount": (first("charges", amount_minor=1), "G3 wrong-amount ord_1"),
    "confirmed, stock put back": (first("deductions", status="restocked"), "G3 stock-not-taken ord_1"),
    "confirmed, other stock taken": (first("deductions", lines={"lamp": 1}), "G3 wrong-stock ord_1"),
    "confirmed, shipment cancelled": (first("shipments", status="cancelled"), "G3 no-live-shipment ord_1"),
    "rejected, money kept": (instead("charges", 1, refunded_minor=0), "G4 money-kept ord_2"),
    "rejected, stock kept": (instead("deductions", 1, status="deducted"), "G4 stock-kept ord_2"),
    "rejected, shipment kept": (instead("shipments", 1, status="booked"), "G4 shipment-kept ord_2"),
    "an effect of an order that does not exist": (
        extra("deductions", DeductionRecord("ord_9", "restocked", {})),
        "G4 orphan-deduction ord_9",
    ),
    "a charge that no payment knows": (
        extra("charges", ChargeRecord("ch_9", "pay_9", 100, "EUR", 0, "captured")),
        "G4 orphan-charge ch_9",
    ),
    "a choreographed order that nobody noted": (without_first("choreographies"), "G1 abandoned ord_6"),
    "a choreographed order whose checkout ended": (first("choreographies", status="ended"), "G1 abandoned ord_6"),
    "a choreography parked without a reason": (
        first("choreographies", status="parked"),
        "G1 parked-without-reason ord_6",
    ),
    "a choreography past its deadline": (
        first("choreographies", overdue_seconds=60.0),
        "G1 choreography-overdue ord_6",
    ),
    "a choreography that never comes back": (
        first("choreographies", status="withdrawn", overdue_seconds=60.0),
        "G1 choreography-overdue ord_6",
    ),
    "calls in a row whose caller is gone": (naive(), "G1 abandoned ord_3"),
    "calls in a row that took the money and no more": (naive(CHARGED), "G4 money-kept ord_3"),
    "calls in a row that took the stock and no more": (
        naive(extra("deductions", DeductionRecord("ord_3", "deducted", {"rope": 1}))),
        "G4 stock-kept ord_3",
    ),
    "calls in a row that sent the goods and no more": (
        naive(extra("shipments", ShipmentRecord("shp_3", "ord_3", "gull", "DE", "2026-02-01", "booked", 1))),
        "G4 shipment-kept ord_3",
    ),
    "a second authorisation": (
        extra("charges", ChargeRecord("ch_9", "pay_4", 750, "EUR", 0, "authorised")),
        "G2 charged-twice ord_4",
    ),
    "a refund of what was only authorised": (instead("charges", 2, refunded_minor=750), "G2 refunded-too-much ch_4"),
    "confirmed, never captured": (first("charges", status="authorised"), "G3 not-paid-once ord_1"),
    "confirmed, stock still held": (first("deductions", status="held"), "G3 hold-left ord_1"),
    "confirmed, money still authorised": (first("charges", status="authorised"), "G3 hold-left ord_1"),
    "confirmed, place still held": (first("shipments", status="held"), "G3 hold-left ord_1"),
    "rejected, stock still held": (instead("deductions", 1, status="held"), "G4 hold-left ord_2"),
    "rejected, payment still authorised": (instead("payments", 3, status="authorised"), "G4 hold-left ord_5"),
    "rejected, the processor still keeps it": (instead("charges", 3, status="authorised"), "G4 hold-left ord_5"),
    "rejected, captured all the same": (instead("charges", 3, status="captured"), "G4 money-kept ord_5"),
    "cancelled, place still held": (
        planted(instead("orders", 1, status="cancelled"), instead("shipments", 1, status="held")),
        "G4 hold-left ord_2",
    ),
    "a hold that nobody will ever end": (without("sagas", 3), "G4 hold-left ord_4"),
    "an authorisation that no payment knows": (
        extra("charges", ChargeRecord("ch_9", "pay_9", 100, "EUR", 0, "authorised")),
        "G4 orphan-charge ch_9",
    ),
    "prepared past its bound": (first("prepared", age_seconds=90.0), "G4 prepared-left ord_4"),
    "prepared, and rejected": (
        first("prepared", gid="dockyard/payment/ord_5", transaction_id="ord_5"),
        "G4 prepared-left ord_5",
    ),
    "prepared, and confirmed": (
        first("prepared", gid="dockyard/payment/ord_1", transaction_id="ord_1"),
        "G3 prepared-left ord_1",
    ),
    "prepared by nobody we know": (
        extra("prepared", PreparedRecord("order", "somebody", "", 90.0)),
        "G4 prepared-left somebody",
    ),
    "more reserved than is held": (instead("products", 1, on_hand=6, reserved=4), "G5 reserved-mismatch rope"),
    "a hold that nothing is reserved for": (
        instead("products", 1, on_hand=10, reserved=0),
        "G5 reserved-mismatch rope",
    ),
    "an authorisation in the ledger": (extra("balances", BalanceRecord("pay_4", 750)), "G5 ledger-differs pay_4"),
    "authorised here, captured there": (instead("charges", 2, status="captured"), "G5 processor-differs pay_4"),
    "charged here, voided there": (first("charges", status="voided"), "G5 processor-differs pay_1"),
    "a held place that nobody counts": (first("capacities", booked=1), "G5 capacity-differs gull"),
    "an entry that does not balance": (first("entries", sum_minor=1), "G5 entry-unbalanced ent_1"),
    "a payment the ledger missed": (first("balances", charged_minor=0), "G5 ledger-differs pay_1"),
    "a payment the processor never made": (without_first("charges"), "G5 processor-differs pay_1"),
    "stock that vanished": (first("products", on_hand=7), "G5 stock-lost lamp"),
    "stock below zero": (first("products", on_hand=-1, sold=11), "G5 stock-lost lamp"),
    "sold without a deduction": (first("products", sold=3, on_hand=7), "G5 sold-differs lamp"),
    "a day oversold": (first("capacities", parcels_per_day=0), "G5 capacity-oversold gull"),
    "a day miscounted": (first("capacities", booked=3), "G5 capacity-differs gull"),
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


def test_every_rule_has_been_seen_failing() -> None:
    seen = {rule for rule in RULES for plant, _ in PLANTS.values() if any(rule(plant(CLEAN), gather(plant(CLEAN))))}
    assert seen == set(RULES)


STYLES = {
    "calls in a row whose caller is gone": "naive",
    "a hold that nobody will ever end": "tcc",
    "prepared, and rejected": "twophase",
    "authorised here, captured there": "tcc",
    "a refund of what was only authorised": "tcc",
    "a choreography past its deadline": "choreographed",
    "confirmed, never charged": "orchestrated",
    "stock that vanished": "",
    "prepared by nobody we know": "",
}


@pytest.mark.parametrize("plant", STYLES)
def test_a_violation_says_how_its_order_was_coordinated(plant: str) -> None:
    change, expected = PLANTS[plant]
    found = [one for one in audit(change(CLEAN)) if f"{one.guarantee} {one.rule} {one.ids[0]}" == expected]
    assert {one.coordination for one in found} == {STYLES[plant]}


@pytest.mark.parametrize(
    ("status", "late"), [("running", -1.0), ("running", 5.0), ("parked", 900.0), ("ended", 900.0), ("withdrawn", 5.0)]
)
def test_a_choreography_may_be_parked_and_a_little_late(status: str, late: float) -> None:
    change = first("choreographies", status=status, parked_reason="shipping is away", overdue_seconds=late)
    assert "choreography-overdue" not in {one.rule for one in audit(change(CLEAN))}


@pytest.mark.parametrize("status", ["authorising", "charging", "capturing", "voiding", "refunding"])
def test_a_payment_that_moves_may_differ_from_the_ledger_and_the_processor(status: str) -> None:
    change = planted(instead("payments", 2, status=status), instead("charges", 2, status="captured"))
    assert audit(change(CLEAN)) == []
