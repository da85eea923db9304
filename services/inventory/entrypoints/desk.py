"""What REST and gRPC do alike: make a command of a request and hand it to the next batch."""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from libs.runtime.batching import Batcher
from libs.runtime.http_edge import decode_page_token, encode_page_token
from libs.tcc.barrier import Entry, Key, Operation
from libs.telemetry.tracing import current_traceparent
from services.inventory.domain import TRANSACTION_LETTERS_MAX, Line, Product, check_sku, check_text, checked
from services.inventory.handlers import BindKey, Command, CreateProducts, Deduct, Done, Effect, ReceiveStock, Restock
from services.inventory.ports import Queries

DEDUCT = "deduct-stock"
RESTOCK = "restock"


class Desk:
    """Every write goes through one batcher, so that no two batches touch one product at the same time.

    Everything that is asked is checked here first: what could never succeed does not reach a batch.
    """

    def __init__(self, commands: Batcher[Command, Done], queries: Queries) -> None:
        self._commands = commands
        self._queries = queries

    async def deduct(self, transaction_id: str, lines: Sequence[Line]) -> Done:
        wanted = checked(lines)
        return await self._submit(_transaction(transaction_id, Operation.DO), wanted, Deduct(wanted))

    async def restock(self, transaction_id: str) -> Done:
        return await self._submit(_transaction(transaction_id, Operation.UNDO), None, Restock())

    async def create(self, key: str, products: Sequence[Product]) -> list[Product]:
        """The products as they are then."""
        done = await self._submit(
            _request(key, "create-products"), products, CreateProducts(tuple(products), current_traceparent())
        )
        return await self._queries.many(done.skus)

    async def receive(self, key: str, sku: str, quantity: int) -> Product:
        """The product as it is then."""
        effect = ReceiveStock(check_sku(sku), quantity)
        await self._submit(_request(key, "receive-stock"), (sku, quantity), effect)
        return await self._queries.get(sku)

    async def bind(self, key: str, operation: str, asked: Any) -> None:
        """Ties an Idempotency-Key to a request that its transaction names. Raises Mismatch when it is another's."""
        await self._submit(_request(key, operation), asked, BindKey())

    async def product(self, sku: str) -> Product:
        """Raises NotFound."""
        return await self._queries.get(check_sku(sku))

    async def page(self, token: str, limit: int) -> tuple[list[Product], str]:
        """Products by sku, and the token of the next page."""
        after = decode_page_token(token)
        products, following = await self._queries.page(check_sku(after) if after else "", limit)
        return products, encode_page_token(following)

    async def _submit(self, key: Key, asked: Any, effect: Effect) -> Done:
        fingerprint = hashlib.sha256(msgspec.json.encode(asked)).digest()
        return await self._commands.submit(Command(Entry(key, fingerprint), effect))


def _transaction(transaction_id: str, operation: Operation) -> Key:
    return Key(check_text("transaction_id", transaction_id, TRANSACTION_LETTERS_MAX), DEDUCT, operation)


def _request(key: str, operation: str) -> Key:
    return Key(check_text("a key", f"key:{key}", TRANSACTION_LETTERS_MAX), operation, Operation.DO)
