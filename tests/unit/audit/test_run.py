"""The audit waits for what moves by itself, and for nothing else."""

from dataclasses import replace

import pytest

from dockyard.audit.records import ChoreographyRecord, OrderRecord, PaymentRecord, Records, SagaRecord, ViewRecord
from dockyard.audit.rules import Violation
from dockyard.audit.run import Report, _counts, _moving

NAIVE = Records(
    orders=(OrderRecord("ord_1", "pending", 1, 250, "EUR", {"rope": 1}, "naive"),),
    views=(ViewRecord("ord_1", "pending", 1, 250),),
    payments=(PaymentRecord("pay_1", "ord_1", "ada", 250, "EUR", "charged"),),
)


def test_a_naive_order_that_is_pending_is_not_waited_for() -> None:
    assert _moving(NAIVE) == 0


@pytest.mark.parametrize("status", ["authorising", "charging", "capturing", "voiding", "refunding"])
def test_a_payment_whose_answer_is_on_its_way_is_waited_for(status: str) -> None:
    assert _moving(replace(NAIVE, payments=(replace(NAIVE.payments[0], status=status),))) == 1


@pytest.mark.parametrize("status", ["authorised", "charged", "voided", "declined", "refunded"])
def test_a_payment_that_rests_is_not(status: str) -> None:
    assert _moving(replace(NAIVE, payments=(replace(NAIVE.payments[0], status=status),))) == 0


@pytest.mark.parametrize(("status", "moving"), [("running", 1), ("withdrawn", 1), ("parked", 0), ("ended", 0)])
def test_a_choreography_is_waited_for_until_it_ends_or_is_parked(status: str, moving: int) -> None:
    assert _moving(Records(choreographies=(ChoreographyRecord("ord_1", status, "", 0.0),))) == moving


def test_parked_orders_of_every_style_are_counted() -> None:
    records = Records(
        sagas=(SagaRecord("ord_1", "parked", "inventory is away"), SagaRecord("ord_2", "ended", "")),
        choreographies=(ChoreographyRecord("ord_3", "parked", "shipping is away", 60.0),),
    )
    counts = _counts(records)
    assert (counts["parked"], counts["sagas"], counts["choreographies"]) == (2, 2, 1)


def test_violations_are_counted_by_the_style_of_their_orders() -> None:
    of = {style: Violation("G1", "abandoned", (style,), "", style) for style in ("tcc", "naive", "")}
    report = Report(True, {}, (of["tcc"], of["naive"], of["naive"], of[""]))
    assert report.by_coordination() == {"naive": 2, "tcc": 1, "": 1}
