"""Products and deductions as rows."""

import msgspec

from libs.kernel.money import Money
from services.inventory.domain import Line, Product, Status
from services.inventory.ports import Deduction

PRODUCT_COLUMNS = "sku, name, price_minor, currency, on_hand, reserved, sold, received, revision"
DEDUCTION_COLUMNS = "transaction_id, lines::text, status"

_read_lines = msgspec.json.Decoder(tuple[Line, ...]).decode


def product_of(  # noqa: PLR0913, PLR0917  (one for each column)
    sku: str,
    name: str,
    price_minor: int,
    currency: str,
    on_hand: int,
    reserved: int,
    sold: int,
    received: int,
    revision: int,
) -> Product:
    return Product(sku, name, Money(price_minor, currency), on_hand, reserved, sold, received, revision)


def deduction_of(transaction_id: str, lines: str, status: str) -> Deduction:
    return Deduction(transaction_id, _read_lines(lines), Status(status))


def lines_text(deduction: Deduction) -> str:
    """The lines as `deduction_of` reads them."""
    return msgspec.json.encode(deduction.lines).decode()
