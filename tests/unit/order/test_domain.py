from datetime import UTC, datetime

import pytest

from libs.kernel.errors import Conflict, Invalid, Refused
from libs.kernel.money import Money
from services.order.domain import (
    TRANSITIONS,
    Address,
    CancelRefused,
    CancelRequested,
    Change,
    Line,
    Order,
    OrderCancelled,
    OrderConfirmed,
    OrderRejected,
    OrderShipped,
    PlaceOrder,
    Status,
    cancel,
    checked,
    confirm,
    end_unconfirmed,
    evolve,
    fold,
    place,
    refuse_cancel,
    request_cancel,
    ship,
)

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
HARBOUR = Address("Ada", "Quay 1", "Hamburg", "20457", "DE")
PRICES = {"lamp": Money(4900, "EUR"), "rope": Money(250, "EUR")}


def wanted(*lines: Line, coordination: str = "orchestrated") -> PlaceOrder:
    return PlaceOrder("ord_1", "ada", lines or (Line("lamp", 2),), "tok_ok", HARBOUR, coordination, NOON)


def pending() -> Order:
    return fold(place(wanted(), PRICES))


def confirmed() -> Order:
    return evolve(pending(), OrderConfirmed(NOON))


def test_an_order_is_priced_from_the_catalogue_at_the_moment_it_is_placed() -> None:
    placed, *rejected = place(wanted(Line("lamp", 2), Line("rope", 10)), PRICES)
    assert not rejected
    assert placed.total == Money(2 * 4900 + 10 * 250, "EUR")
    assert [line.unit_price for line in placed.lines] == [Money(4900, "EUR"), Money(250, "EUR")]


def test_an_order_with_an_unknown_product_is_accepted_and_rejected_in_one_breath() -> None:
    order = fold(place(wanted(Line("lamp", 1), Line("unicorn", 1)), PRICES))
    assert (order.status, order.reason, order.version) == (Status.REJECTED, "unknown-product", 2)


def test_an_order_in_two_currencies_is_rejected() -> None:
    order = fold(place(wanted(Line("lamp", 1), Line("tea", 1)), PRICES | {"tea": Money(100, "GBP")}))
    assert (order.status, order.reason) == (Status.REJECTED, "mixed-currencies")


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (PlaceOrder("ord_1", "ada", (), "tok_ok", HARBOUR, "orchestrated", NOON), "at least one line"),
        (wanted(*(Line(f"sku-{n}", 1) for n in range(101))), "at most 100 lines"),
        (wanted(Line("lamp", 0)), "quantity of lamp"),
        (wanted(Line("lamp", 10_001)), "quantity of lamp"),
        (wanted(Line("lamp", 1), Line("lamp", 2)), "one line only"),
        (wanted(coordination="hopeful"), "coordination must be one of"),
    ],
)
def test_an_order_no_shop_could_fulfil_is_invalid(command: PlaceOrder, complaint: str) -> None:
    with pytest.raises(Invalid, match=complaint):
        checked(command)


def test_a_confirmed_order_cannot_be_rejected() -> None:
    with pytest.raises(AssertionError, match="OrderRejected cannot follow confirmed"):
        evolve(confirmed(), OrderRejected("card-declined", "", NOON))


def test_every_pair_of_status_and_event_is_either_in_the_table_or_loud() -> None:
    changes: list[Change] = [
        OrderConfirmed(NOON),
        OrderRejected("x", "", NOON),
        CancelRequested("x", NOON),
        CancelRefused("x", NOON),
        OrderCancelled("x", NOON),
        OrderShipped("shp_1", NOON),
    ]
    assert set(TRANSITIONS) == set(Status)
    for status in Status:
        order = Order(**{name: getattr(pending(), name) for name in Order.__slots__} | {"status": status})
        for change in changes:
            if type(change) in TRANSITIONS[status]:
                assert evolve(order, change).status is TRANSITIONS[status][type(change)]
            else:
                with pytest.raises(AssertionError):
                    evolve(order, change)


def test_confirming_twice_confirms_once() -> None:
    assert confirm(pending(), NOON) == OrderConfirmed(NOON)
    assert confirm(confirmed(), NOON) is None


def test_an_order_its_customer_wants_cancelled_is_not_confirmed() -> None:
    order = evolve(pending(), CancelRequested("too late", NOON))
    with pytest.raises(Refused) as refusal:
        confirm(order, NOON)
    assert refusal.value.code == "cancel-requested"


def test_an_undone_checkout_rejects_the_order_or_cancels_it_when_that_was_asked() -> None:
    assert end_unconfirmed(pending(), "card-declined", "no", NOON) == OrderRejected("card-declined", "no", NOON)
    asked = evolve(pending(), CancelRequested("too late", NOON))
    assert end_unconfirmed(asked, "cancel-requested", "", NOON) == OrderCancelled("too late", NOON)


def test_an_ended_order_is_not_ended_again() -> None:
    rejected = evolve(pending(), OrderRejected("card-declined", "", NOON))
    assert end_unconfirmed(rejected, "card-declined", "", NOON) is None


def test_a_shipped_order_cannot_be_cancelled() -> None:
    shipped = evolve(confirmed(), OrderShipped("shp_1", NOON))
    with pytest.raises(Conflict, match="parcel has left"):
        request_cancel(shipped, "changed my mind", NOON)


def test_a_confirmed_order_is_cancelled_after_its_effects_were_taken_back() -> None:
    asked = evolve(confirmed(), CancelRequested("changed my mind", NOON))
    ended = cancel(asked, NOON)
    assert ended == OrderCancelled("changed my mind", NOON)
    assert evolve(asked, ended).reason == "changed my mind"


def test_a_refused_cancellation_leaves_the_order_as_it_was_and_can_be_asked_again() -> None:
    asked = evolve(confirmed(), CancelRequested("changed my mind", NOON))
    refused = refuse_cancel(asked, "already-dispatched", NOON)
    assert refused is not None
    order = evolve(asked, refused)
    assert (order.status, order.cancel_requested) == (Status.CONFIRMED, "")
    assert request_cancel(order, "really", NOON) is not None


def test_a_parcel_that_left_is_noted_once() -> None:
    event = ship(confirmed(), "shp_1", NOON)
    assert event == OrderShipped("shp_1", NOON)
    assert ship(evolve(confirmed(), event), "shp_1", NOON) is None
    with pytest.raises(Refused):
        ship(pending(), "shp_1", NOON)
