"""Orders and sagas as an operator finds them."""

from datetime import UTC, datetime, timedelta

from libs.kernel.money import Money
from libs.saga.definition import Saga
from libs.saga.entries import AnyEntry, Started
from libs.saga.log import Instance, Line, Remembered
from libs.saga.machine import State, fold
from services.order import domain
from services.order.domain import ORCHESTRATED, Address, Order, OrderPlaced, PricedLine
from services.order.operations import SagaSubject
from services.order.saga import CANCELLATION, Cancellation, checkout_of

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)


def order(*events: domain.Change, coordination: str = ORCHESTRATED) -> Order:
    lines = (PricedLine("lamp", 2, Money(4900, "EUR")),)
    ada = Address("Ada", "Quay 1", "Hamburg", "20457", "DE")
    return domain.fold(
        [OrderPlaced("ord_1", "ada", lines, Money(9800, "EUR"), "tok_ok", ada, coordination, NOON), *events]
    )


def subject(saga: Saga, state: State, *lines: Line) -> SagaSubject:
    is_cancellation = saga.name == CANCELLATION.name
    body = Cancellation("ord_1") if is_cancellation else checkout_of(order())
    saga_id = "ord_1/cancel/2" if is_cancellation else "ord_1"
    return SagaSubject(saga, Remembered(Instance(saga_id, saga.name, saga.version, body, "", NOON), "", lines), state)


def logged(saga: Saga, *entries: AnyEntry) -> SagaSubject:
    """A saga whose log holds these lines."""
    lines = [Line(seq, NOON, entry) for seq, entry in enumerate((Started(), *entries), 1)]
    return subject(saga, fold(line.entry for line in lines), *lines)
