"""What is read from the inventory service's database outside of its transactions."""

from collections.abc import Mapping, Sequence

from sqlalchemy import text

from libs.kernel.errors import NotFound
from libs.runtime.database import Database
from libs.runtime.sql import texts
from libs.tcc.barrier import Manner, Operation
from libs.tcc.trail import Trail, Words, read_trail
from libs.twophase.prepared import Prepared
from services.inventory.adapters.rows import PRODUCT_COLUMNS, product_of
from services.inventory.domain import Product
from services.inventory.handlers import DEDUCT_STOCK

WORDS: Mapping[str, Words] = {
    DEDUCT_STOCK: Words(
        effects={
            (Operation.DO, Manner.AT_ONCE): "stock deducted",
            (Operation.DO, Manner.HOLD): "stock held",
            (Operation.DO, Manner.PREPARE): "deduction prepared",
            (Operation.CONFIRM, Manner.AT_ONCE): "deduction confirmed",
            (Operation.UNDO, Manner.AT_ONCE): "stock returned",
        },
        kept={Manner.HOLD: "stock held", Manner.PREPARE: "rows locked by a prepared transaction"},
    )
}

_PRODUCTS = f"SELECT {PRODUCT_COLUMNS} FROM products"  # noqa: S608  (the columns are a constant)
ONE = text(_PRODUCTS + " WHERE sku = :sku")
MANY = text(_PRODUCTS + " WHERE sku = ANY(:skus)").bindparams(*texts("skus"))
PAGE = text(_PRODUCTS + " WHERE sku > :after ORDER BY sku LIMIT :limit")

# The transactions whose holds have lasted longer than was agreed, by the database's clock.
OVERDUE = text(
    "SELECT transaction_id FROM deductions WHERE lease_until < now() ORDER BY lease_until, transaction_id LIMIT :limit"
)


class InventoryQueries:
    """Reads products and trails."""

    def __init__(self, database: Database, prepared: Prepared) -> None:
        self._database = database
        self._prepared = prepared

    async def get(self, sku: str) -> Product:
        """Raises NotFound."""
        async with self._database.read() as connection:
            row = (await connection.execute(ONE, {"sku": sku})).one_or_none()
        if row is None:
            raise NotFound(f"there is no product {sku}")
        return product_of(*row)

    async def many(self, skus: Sequence[str]) -> list[Product]:
        async with self._database.read() as connection:
            rows = await connection.execute(MANY, {"skus": list(skus)})
            found = {row[0]: product_of(*row) for row in rows}
        return [found[sku] for sku in skus if sku in found]

    async def page(self, after: str, limit: int) -> tuple[list[Product], str]:
        """Products by sku, and the key of the next page; "" at the end."""
        async with self._database.read() as connection:
            rows = await connection.execute(PAGE, {"after": after, "limit": limit + 1})
            products = [product_of(*row) for row in rows]
        return products[:limit], products[limit - 1].sku if len(products) > limit else ""

    async def trail(self, transaction_id: str) -> Trail:
        async with self._database.read() as connection:
            return await read_trail(connection, transaction_id, WORDS, self._prepared.gid(transaction_id))

    async def held_too_long(self, limit: int) -> Sequence[str]:
        """Transactions whose hold's lease has ended, longest ago first."""
        async with self._database.read() as connection:
            return (await connection.execute(OVERDUE, {"limit": limit})).scalars().all()
