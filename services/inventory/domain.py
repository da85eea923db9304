"""Stock: what is on hand, what is sold, and that both always add up to what was received."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from libs.kernel.errors import Invalid, Refused
from libs.kernel.money import Money

LINES_MAX = 100  # bounds the rows one command locks
QUANTITY_MAX = 10_000
ON_HAND_MAX = 10**12  # keeps every sum inside 64 bits
SKU_LETTERS_MAX = 64
NAME_LETTERS_MAX = 200
# An Idempotency-Key of 255 characters behind its prefix.
TRANSACTION_LETTERS_MAX = 260


class Status(StrEnum):
    """Where the pieces of a deduction are counted: reserved, sold, or on hand again."""

    HELD = "held"
    DEDUCTED = "deducted"
    RESTOCKED = "restocked"


# What confirming makes of a deduction; one that was put back meanwhile stays so.
CONFIRMING: Mapping[Status, Status] = {
    Status.HELD: Status.DEDUCTED,
    Status.DEDUCTED: Status.DEDUCTED,
    Status.RESTOCKED: Status.RESTOCKED,
}


@dataclass(frozen=True, slots=True)
class Line:
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Product:
    """`on_hand + reserved + sold == received`, none of them below zero; what is held is reserved, and not on hand."""

    sku: str
    name: str
    price: Money
    on_hand: int
    reserved: int = 0
    sold: int = 0
    received: int = 0
    revision: int = 1

    def __post_init__(self) -> None:
        parts = (self.on_hand, self.reserved, self.sold)
        assert min(parts) >= 0 and sum(parts) == self.received, f"stock of {self.sku} does not add up: {self}"


Stock = Mapping[str, Product]


def check_text(name: str, value: str, letters_max: int) -> str:
    """The value, if it is short and readable. Raises Invalid."""
    if not 1 <= len(value) <= letters_max or not value.isprintable():
        raise Invalid(f"{name} has 1 to {letters_max} readable characters")
    return value


def check_sku(sku: str) -> str:
    """The sku, if a product could have it. Raises Invalid."""
    return check_text("a sku", sku, SKU_LETTERS_MAX)


def new_product(sku: str, name: str, price: Money, on_hand: int) -> Product:
    """A product with its first stock. Raises Invalid."""
    check_sku(sku)
    check_text(f"the name of {sku}", name, NAME_LETTERS_MAX)
    if price.minor_units <= 0:
        raise Invalid(f"the price of {sku} is more than nothing")
    if not 0 <= on_hand <= ON_HAND_MAX:
        raise Invalid(f"the stock of {sku} is 0 to {ON_HAND_MAX}")
    return Product(sku, name, price, on_hand, received=on_hand)


def relist(product: Product, wanted: Product) -> Product:
    """The product under the wanted name and price, a revision later if that is a change; its stock stays."""
    if (product.name, product.price) == (wanted.name, wanted.price):
        return product
    return replace(product, name=wanted.name, price=wanted.price, revision=product.revision + 1)


def checked(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The lines, if they could ever be taken. Raises Invalid."""
    if not 1 <= len(lines) <= LINES_MAX:
        raise Invalid(f"1 to {LINES_MAX} lines at a time, not {len(lines)}")
    if len({line.sku for line in lines}) != len(lines):
        raise Invalid("each product appears in one line only")
    for line in lines:
        check_sku(line.sku)
        if not 1 <= line.quantity <= QUANTITY_MAX:
            raise Invalid(f"quantity of {line.sku} must be 1 to {QUANTITY_MAX}, not {line.quantity}")
    return tuple(lines)


def deduct(stock: Stock, lines: Sequence[Line]) -> list[Product]:
    """The products as they are when every line was sold; all lines or none. Raises Refused."""
    return [
        replace(product, on_hand=product.on_hand - line.quantity, sold=product.sold + line.quantity)
        for product, line in _enough(stock, lines)
    ]


def hold(stock: Stock, lines: Sequence[Line]) -> list[Product]:
    """The products as they are when every line was reserved; all lines or none. Raises Refused."""
    return [
        replace(product, on_hand=product.on_hand - line.quantity, reserved=product.reserved + line.quantity)
        for product, line in _enough(stock, lines)
    ]


def _enough(stock: Stock, lines: Sequence[Line]) -> list[tuple[Product, Line]]:
    """Each line with its product. Raises Refused for the first of which there is not enough."""
    return [(_with_enough(stock.get(line.sku), line), line) for line in lines]


def _with_enough(product: Product | None, line: Line) -> Product:
    if product is None:
        raise Refused(f"there is no product {line.sku}", code="unknown-product", details={"sku": line.sku})
    if product.on_hand < line.quantity:
        details = {"sku": line.sku, "wanted": str(line.quantity), "on_hand": str(product.on_hand)}
        raise Refused(
            f"{line.sku}: {product.on_hand} on hand, {line.quantity} wanted", code="out-of-stock", details=details
        )
    return product


def sell(stock: Stock, lines: Sequence[Line]) -> list[Product]:
    """The products as they are when everything held was sold."""
    return [
        replace(product, reserved=product.reserved - line.quantity, sold=product.sold + line.quantity)
        for product, line in _known(stock, lines)
    ]


def release(stock: Stock, lines: Sequence[Line]) -> list[Product]:
    """The products as they are when everything held was let go."""
    return [
        replace(product, reserved=product.reserved - line.quantity, on_hand=product.on_hand + line.quantity)
        for product, line in _known(stock, lines)
    ]


def restock(stock: Stock, lines: Sequence[Line]) -> list[Product]:
    """The products as they are when everything sold was put back."""
    return [
        replace(product, on_hand=product.on_hand + line.quantity, sold=product.sold - line.quantity)
        for product, line in _known(stock, lines)
    ]


def _known(stock: Stock, lines: Sequence[Line]) -> list[tuple[Product, Line]]:
    return [(stock[line.sku], line) for line in lines]


Move = Callable[[Stock, Sequence[Line]], list[Product]]
# What a deduction does to the stock when it begins, and when it goes from one status to another.
BEGINNING: Mapping[Status, Move] = {Status.HELD: hold, Status.DEDUCTED: deduct}
ENDING: Mapping[tuple[Status, Status], Move] = {
    (Status.HELD, Status.DEDUCTED): sell,
    (Status.HELD, Status.RESTOCKED): release,
    (Status.DEDUCTED, Status.RESTOCKED): restock,
}


def confirmed(status: Status | None) -> Status:
    """What confirming makes of a deduction; one that was put back meanwhile stays so. Raises Refused for none."""
    if status is None:
        raise Refused("there is nothing held or prepared to confirm", code="nothing-held")
    return CONFIRMING[status]


def receive(product: Product, quantity: int) -> Product:
    """The product after a delivery. Raises Invalid."""
    if not 1 <= quantity <= ON_HAND_MAX - product.received:
        raise Invalid(f"1 to {ON_HAND_MAX - product.received} pieces of {product.sku} can be received, not {quantity}")
    return replace(product, on_hand=product.on_hand + quantity, received=product.received + quantity)
