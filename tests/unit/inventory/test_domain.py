from dataclasses import replace

import pytest

from libs.kernel.errors import Invalid, Refused
from libs.kernel.money import Money
from services.inventory.domain import (
    BEGINNING,
    ENDING,
    Line,
    Product,
    Status,
    checked,
    confirmed,
    deduct,
    hold,
    new_product,
    receive,
    release,
    relist,
    restock,
    sell,
)

LAMP = new_product("lamp", "Lamp", Money(4900, "EUR"), 5)
ROPE = new_product("rope", "Rope", Money(250, "EUR"), 1)
STOCK = {"lamp": LAMP, "rope": ROPE}


def test_what_is_taken_is_sold_and_still_adds_up() -> None:
    (lamp,) = deduct(STOCK, [Line("lamp", 2)])
    assert (lamp.on_hand, lamp.sold, lamp.received) == (3, 2, 5)


def test_all_lines_or_none() -> None:
    with pytest.raises(Refused) as refusal:
        deduct(STOCK, [Line("lamp", 2), Line("rope", 2)])
    assert refusal.value.code == "out-of-stock"
    assert refusal.value.details == {"sku": "rope", "wanted": "2", "on_hand": "1"}


def test_an_unknown_product_is_refused_by_name() -> None:
    with pytest.raises(Refused) as refusal:
        deduct(STOCK, [Line("unicorn", 1)])
    assert (refusal.value.code, refusal.value.details) == ("unknown-product", {"sku": "unicorn"})


def test_restocking_is_the_mirror_of_deducting() -> None:
    lines = [Line("lamp", 2), Line("rope", 1)]
    taken = {product.sku: product for product in deduct(STOCK, lines)}
    assert restock(taken, lines) == [LAMP, ROPE]


def test_what_is_held_is_neither_on_hand_nor_sold_and_still_adds_up() -> None:
    (lamp,) = hold(STOCK, [Line("lamp", 2)])
    assert (lamp.on_hand, lamp.reserved, lamp.sold, lamp.received) == (3, 2, 0, 5)


def test_what_is_held_cannot_be_taken() -> None:
    held = {product.sku: product for product in hold(STOCK, [Line("rope", 1)])}
    for take in (deduct, hold):
        with pytest.raises(Refused) as refusal:
            take(held, [Line("rope", 1)])
        assert refusal.value.details == {"sku": "rope", "wanted": "1", "on_hand": "0"}


def test_holding_and_selling_is_deducting() -> None:
    lines = [Line("lamp", 2), Line("rope", 1)]
    held = {product.sku: product for product in hold(STOCK, lines)}
    assert sell(held, lines) == deduct(STOCK, lines)


def test_releasing_is_the_mirror_of_holding() -> None:
    lines = [Line("lamp", 2), Line("rope", 1)]
    held = {product.sku: product for product in hold(STOCK, lines)}
    assert release(held, lines) == [LAMP, ROPE]


@pytest.mark.parametrize("begun", BEGINNING)
@pytest.mark.parametrize("then", [None, Status.DEDUCTED])
def test_whatever_was_taken_comes_back_the_way_it_went(begun: Status, then: Status | None) -> None:
    lines = [Line("lamp", 2), Line("rope", 1)]
    stock = {product.sku: product for product in BEGINNING[begun](STOCK, lines)}
    status = then or begun
    if status is not begun:
        stock = {product.sku: product for product in ENDING[begun, status](stock, lines)}
    assert ENDING[status, Status.RESTOCKED](stock, lines) == [LAMP, ROPE]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Status.HELD, Status.DEDUCTED),
        (Status.DEDUCTED, Status.DEDUCTED),
        (Status.RESTOCKED, Status.RESTOCKED),
    ],
)
def test_a_confirmation_makes_final_what_is_held_and_changes_nothing_else(before: Status, after: Status) -> None:
    assert confirmed(before) is after


def test_nothing_cannot_be_confirmed() -> None:
    with pytest.raises(Refused) as refusal:
        confirmed(None)
    assert refusal.value.code == "nothing-held"


def test_a_delivery_is_on_hand_and_received() -> None:
    assert receive(LAMP, 3) == replace(LAMP, on_hand=8, received=8)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [Line("lamp", 0)],
        [Line("lamp", -1)],
        [Line("lamp", 10_001)],
        [Line("lamp", 1), Line("lamp", 1)],
        [Line(f"sku-{number}", 1) for number in range(101)],
        [Line("", 1)],
        [Line("a\0b", 1)],
        [Line("x" * 65, 1)],
    ],
)
def test_lines_that_could_never_be_taken_are_invalid(lines: list[Line]) -> None:
    with pytest.raises(Invalid):
        checked(lines)


def test_stock_that_does_not_add_up_cannot_be_made() -> None:
    with pytest.raises(AssertionError, match="does not add up"):
        Product("lamp", "Lamp", Money(4900, "EUR"), on_hand=5, sold=1, received=5)
    with pytest.raises(AssertionError, match="does not add up"):
        Product("lamp", "Lamp", Money(4900, "EUR"), on_hand=-1, sold=6, received=5)


def test_a_new_name_or_price_is_a_later_revision_of_the_same_stock() -> None:
    dearer = relist(LAMP, new_product("lamp", "Lamp", Money(5200, "EUR"), 99))
    assert dearer == replace(LAMP, price=Money(5200, "EUR"), revision=2)
    assert relist(dearer, dearer) is dearer


@pytest.mark.parametrize(
    ("sku", "name", "price", "on_hand"),
    [
        ("", "Lamp", 1, 0),
        ("a\0b", "Lamp", 1, 0),
        ("lamp", "a\nb", 1, 0),
        ("lamp", "Lamp", 0, 0),
        ("lamp", "Lamp", 1, -1),
    ],
)
def test_a_product_that_makes_no_sense_is_invalid(sku: str, name: str, price: int, on_hand: int) -> None:
    with pytest.raises(Invalid):
        new_product(sku, name, Money(price, "EUR"), on_hand)
