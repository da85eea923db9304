"""A cashier on a real database, and a card processor that does as it is told."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

import services.payment
from libs.kernel.errors import DockyardError
from libs.kernel.money import Money
from libs.runtime.batching import Batcher
from libs.runtime.clock import ManualClock
from libs.runtime.database import Database
from services.payment.adapters.units import PaymentQueries, PostgresUnits
from services.payment.cashier import Cashier
from services.payment.domain import Charged, Declined, Payment, Status, Verdict, payment_id_of
from services.payment.handlers import Ask, Begin, Done, PaymentHandlers, Settle, batch_key, settle_key
from services.payment.ports import Processor

MIGRATIONS = Path(services.payment.__path__[0]) / "migrations"
PRICE = Money(4900, "EUR")
DECLINED = Declined("card-declined", "the issuer declined the card")


class QuickClock(ManualClock):
    """Time passes when somebody sleeps, and only then."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)


@dataclass(slots=True)
class ScriptedProcessor:
    """A card processor in memory. Answers in `lost` are lost after the money moved, errors in `failing` before.

    While `open` is not set nobody gets an answer.
    """

    failing: deque[DockyardError] = field(default_factory=deque)
    lost: deque[DockyardError] = field(default_factory=deque)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    asked: Counter[str] = field(default_factory=Counter)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    refunds: set[str] = field(default_factory=set)
    moved: Counter[str] = field(default_factory=Counter)
    heard: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.open.set()

    async def charge(self, payment: Payment) -> Verdict:
        await self._hear(f"charge {payment.payment_id}")
        if payment.payment_id not in self.verdicts:
            declined = payment.card_token == "tok_declined"
            self.verdicts[payment.payment_id] = DECLINED if declined else Charged(f"ch_{payment.payment_id}")
            self.moved[payment.payment_id] += not declined
        await self._answer()
        return self.verdicts[payment.payment_id]

    async def refund(self, payment: Payment) -> None:
        await self._hear(f"refund {payment.payment_id}")
        assert self.verdicts[payment.payment_id] == Charged(payment.processor_reference)
        if payment.payment_id not in self.refunds:
            self.refunds.add(payment.payment_id)
            self.moved[payment.payment_id] -= 1
        await self._answer()

    async def _hear(self, what: str) -> None:
        self.asked[what] += 1
        async with self.heard:
            self.heard.notify_all()
        if self.failing:
            raise self.failing.popleft()

    async def _answer(self) -> None:
        await self.open.wait()
        if self.lost:
            raise self.lost.popleft()

    async def until_asked(self, what: str, times: int = 1) -> None:
        async with asyncio.timeout(10), self.heard:
            await self.heard.wait_for(lambda: self.asked[what] >= times)


@dataclass(slots=True)
class Till:
    """One payment process's insides; several may share a database, as the one after a crash does."""

    url: str
    handlers: PaymentHandlers
    beginning: Batcher[Begin, Done | Ask]
    cashier: Cashier
    queries: PaymentQueries
    clock: ManualClock

    async def charge(self, transaction_id: str, card: str = "tok_ok", amount: Money = PRICE) -> Done:
        return await self.cashier.charge(self.payment(transaction_id, card, amount))

    async def refund(self, transaction_id: str) -> Done:
        return await self.cashier.refund(transaction_id, "charge")

    def payment(self, transaction_id: str, card: str = "tok_ok", amount: Money = PRICE) -> Payment:
        return Payment(
            payment_id=payment_id_of(transaction_id, "charge"),
            transaction_id=transaction_id,
            step="charge",
            account_id="ada",
            amount=amount,
            card_token=card,
            status=Status.CHARGING,
            created_at=self.clock.now(),
        )

    async def status(self, transaction_id: str) -> str:
        payment = await self.queries.payment(payment_id_of(transaction_id, "charge"))
        return payment.status.value

    async def ledger(self) -> dict[str, int]:
        """What every account holds."""
        return dict(await rows(self.url, "SELECT account, sum(amount_minor)::int FROM postings GROUP BY account"))


async def rows(url: str, query: str) -> list[tuple[str, int]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


@asynccontextmanager
async def open_till(url: str, processor: Processor, clock: ManualClock | None = None) -> AsyncIterator[Till]:
    """Everything between the entrypoints and the processor, as the service's main wires it."""
    clock = clock or QuickClock()
    database = Database.open(url, 8, "test")
    handlers = PaymentHandlers(PostgresUnits(database))
    beginning: Batcher[Begin, Done | Ask] = Batcher("begin payments", handlers.begin, key=batch_key)
    settling: Batcher[Settle, Done] = Batcher("settle payments", handlers.settle, key=settle_key)
    cashier = Cashier(beginning, settling, processor, clock)
    try:
        yield Till(url, handlers, beginning, cashier, PaymentQueries(database), clock)
    finally:
        for drain in (cashier.drain, beginning.drain, settling.drain):
            await drain()
        await database.close()
