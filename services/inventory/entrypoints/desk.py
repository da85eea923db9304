"""What REST and gRPC do alike: make a command of a request and hand it to the next batch."""

from collections.abc import Sequence
from typing import Any

from libs.coordination.outcomes import Outcome
from libs.kernel.errors import Invalid
from libs.runtime.batching import Batcher
from libs.runtime.http_edge import decode_page_token, encode_page_token
from libs.tcc.barrier import Key, Manner, Operation
from libs.tcc.trail import Trail
from libs.telemetry.tracing import current_traceparent
from libs.twophase.preparations import Preparations
from services.inventory.domain import TRANSACTION_LETTERS_MAX, Line, Product, check_sku, check_text
from services.inventory.handlers import (
    BindKey,
    Command,
    CreateProducts,
    Done,
    Effect,
    ReceiveStock,
    command,
    confirmation,
    deduction,
    taking_back,
)
from services.inventory.ports import Queries

# A prepared transaction is named after its own: PostgreSQL takes 199 bytes, and ours has a prefix.
PREPARED_LETTERS_MAX = 180


class Desk:
    """Every write but a prepared one goes through one batcher: no two batches of ours touch one product at once.

    What is left to note down when something prepared has ended goes through `endings`: it needs no product, so it does
    not wait behind a batch that waits for one, perhaps for one that the next prepared deduction keeps. Everything that
    is asked is checked here first: what could never succeed does not reach a batch. `lease_ms` is how long stock is
    held before we ask, unless the command says otherwise.
    """

    def __init__(
        self,
        commands: Batcher[Command, Done],
        endings: Batcher[Command, Done],
        preparations: Preparations[Command, Done],
        queries: Queries,
        lease_ms: int,
    ) -> None:
        self._commands = commands
        self._endings = endings
        self._preparations = preparations
        self._queries = queries
        self._lease_ms = lease_ms

    async def deduct(
        self, transaction_id: str, lines: Sequence[Line], manner: Manner = Manner.AT_ONCE, lease_ms: int = 0
    ) -> Done:
        wanted = deduction(_checked(transaction_id), lines, manner, lease_ms or self._lease_ms)
        if manner is Manner.PREPARE:
            _check_preparable(transaction_id)
            return await self._preparations.prepare(wanted)
        return await self._commands.submit(wanted)

    async def confirm(self, transaction_id: str, manner: Manner = Manner.AT_ONCE) -> Done:
        """Makes final what is held or, in that manner, prepared; once."""
        final = confirmation(_checked(transaction_id), manner)
        if manner is Manner.PREPARE and await self._preparations.commit(transaction_id):
            return await self._endings.submit(final)
        return await self._commands.submit(final)

    async def restock(self, transaction_id: str, manner: Manner = Manner.AT_ONCE) -> Done:
        """Puts back what is there, however it was taken; what is prepared only in that manner."""
        back = taking_back(_checked(transaction_id), manner)
        if manner is Manner.PREPARE and await self._preparations.roll_back(transaction_id):
            return await self._endings.submit(back)
        return await self._commands.submit(back)

    async def settle(self, transaction_id: str, outcome: Outcome) -> None:
        """What the coordinator's own command would do, prepared or held; when that comes, it is answered the same."""
        if outcome is Outcome.CONFIRM:
            await self.confirm(transaction_id, Manner.PREPARE)
        else:
            await self.restock(transaction_id, Manner.PREPARE)

    async def trail(self, transaction_id: str) -> Trail:
        """What was done for a transaction."""
        return await self._queries.trail(_checked(transaction_id))

    async def create(self, key: str, products: Sequence[Product]) -> list[Product]:
        """The products as they are then."""
        effect = CreateProducts(tuple(products), current_traceparent())
        done = await self._submit(key, "create-products", products, effect)
        return await self._queries.many(done.skus)

    async def receive(self, key: str, sku: str, quantity: int) -> Product:
        """The product as it is then."""
        await self._submit(key, "receive-stock", (sku, quantity), ReceiveStock(check_sku(sku), quantity))
        return await self._queries.get(sku)

    async def bind(self, key: str, operation: str, asked: Any) -> None:
        """Ties an Idempotency-Key to a request that its transaction names. Raises Mismatch when it is another's."""
        await self._submit(key, operation, asked, BindKey())

    async def product(self, sku: str) -> Product:
        """Raises NotFound."""
        return await self._queries.get(check_sku(sku))

    async def page(self, token: str, limit: int) -> tuple[list[Product], str]:
        """Products by sku, and the token of the next page."""
        after = decode_page_token(token)
        products, following = await self._queries.page(check_sku(after) if after else "", limit)
        return products, encode_page_token(following)

    async def _submit(self, key: str, operation: str, asked: Any, effect: Effect) -> Done:
        named = Key(check_text("a key", f"key:{key}", TRANSACTION_LETTERS_MAX), operation, Operation.DO)
        return await self._commands.submit(command(named, asked, effect))


def _checked(transaction_id: str) -> str:
    """Raises Invalid."""
    return check_text("transaction_id", transaction_id, TRANSACTION_LETTERS_MAX)


def _check_preparable(transaction_id: str) -> None:
    """Raises Invalid."""
    if not transaction_id.isascii() or len(transaction_id) > PREPARED_LETTERS_MAX:
        raise Invalid(f"the transaction_id of what is prepared has at most {PREPARED_LETTERS_MAX} ASCII characters")
