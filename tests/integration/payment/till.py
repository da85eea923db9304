"""A cashier on a real database, and a card processor that does as it is told."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

import services.payment
from libs.coordination.inquiry import Inquiry
from libs.coordination.outcomes import Outcome
from libs.kernel.errors import DockyardError
from libs.kernel.money import Money
from libs.messaging.event import Delivery
from libs.runtime.batching import Batcher
from libs.runtime.clock import Ids, ManualClock
from libs.runtime.database import Database
from libs.tcc.barrier import Manner
from libs.twophase.prepared import Prepared
from services.payment.adapters.choreography import Checkouts
from services.payment.adapters.preparations import preparations
from services.payment.adapters.queries import PaymentQueries
from services.payment.adapters.units import PostgresUnits
from services.payment.cashier import Cashier
from services.payment.domain import Charged, Declined, GivenUp, Payment, Status, Verdict, payment_id_of
from services.payment.entrypoints.desk import ChargeCard, Desk
from services.payment.entrypoints.holdings import DeskHoldings
from services.payment.following import Begun
from services.payment.handlers import Ask, Begin, Done, PaymentHandlers, Settle, batch_key, settle_key
from services.payment.ports import Processor

MIGRATIONS = Path(services.payment.__path__[0]) / "migrations"
PRICE = Money(4900, "EUR")
LEASE_MS = 60_000
PREPARES_MAX = 2
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
    captures: set[str] = field(default_factory=set)
    voids: set[str] = field(default_factory=set)
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

    async def authorise(self, payment: Payment) -> Verdict:
        await self._hear(f"authorise {payment.payment_id}")
        if payment.payment_id not in self.voids and payment.payment_id not in self.verdicts:
            declined = payment.card_token == "tok_declined"
            self.verdicts[payment.payment_id] = DECLINED if declined else Charged(f"ch_{payment.payment_id}")
        await self._answer()
        return GivenUp() if payment.payment_id in self.voids else self.verdicts[payment.payment_id]

    async def capture(self, payment: Payment) -> None:
        await self._hear(f"capture {payment.payment_id}")
        assert self.verdicts[payment.payment_id] == Charged(payment.processor_reference)
        assert payment.payment_id not in self.voids, "captured what was voided"
        if payment.payment_id not in self.captures:
            self.captures.add(payment.payment_id)
            self.moved[payment.payment_id] += 1
        await self._answer()

    async def void(self, payment: Payment) -> None:
        await self._hear(f"void {payment.payment_id}")
        assert payment.payment_id not in self.captures, "voided what was captured"
        self.voids.add(payment.payment_id)
        await self._answer()

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
    database: Database
    handlers: PaymentHandlers
    beginning: Batcher[Begin, Done | Ask]
    cashier: Cashier
    queries: PaymentQueries
    clock: ManualClock
    prepared: Prepared
    desk: Desk
    # What events began and committed, in order.
    followed: list[Begun]
    checkouts: Checkouts

    async def authorise(
        self, transaction_id: str, manner: Manner = Manner.HOLD, card: str = "tok_ok", lease_ms: int = 0
    ) -> Done:
        wanted = ChargeCard(transaction_id, "ada", PRICE, card, manner=manner, lease_ms=lease_ms)
        return await self.desk.charge(wanted)

    async def resume(self) -> None:
        """As the next process does with what a dead one left behind."""
        self.clock.advance(1)
        await self.cashier.resume_once(self.queries, 0.0)

    async def inquire(self, coordinator: "Coordinator", patience_seconds: float = 0.0) -> int:
        """Asks once about all that is overdue; how many were settled."""

        async def prepared(limit: int) -> Sequence[str]:
            return await self.prepared.overdue(patience_seconds, limit)

        holdings = DeskHoldings(self.desk, self.queries.authorised_too_long, prepared)
        return await Inquiry(holdings, coordinator, self.clock).step()

    async def until_overdue(self) -> None:
        """Returns when a lease has ended, by the clock of the database."""
        async with asyncio.timeout(5):
            while not await self.queries.authorised_too_long(1):  # noqa: ASYNC110  (another's clock sets no event)
                await asyncio.sleep(0.01)

    async def hear(self, *deliveries: Delivery) -> None:
        """One transaction of the consumer; what it begins is not carried on yet."""
        async with self.database.transaction() as connection:
            await self.checkouts.apply(connection, deliveries)
        self.checkouts.committed()

    async def follow(self) -> None:
        """Carries on what events began."""
        while self.followed:
            await self.cashier.carry_on(self.followed.pop(0).payment)

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


class Coordinator:
    """Has decided, and remembers who asked."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.asked: list[str] = []

    async def resolve(self, transaction_ids: Sequence[str]) -> Sequence[Outcome]:
        self.asked += transaction_ids
        return [self.outcome] * len(transaction_ids)


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
    units = PostgresUnits(database, clock, Ids(clock))
    handlers = PaymentHandlers(units)
    prepared = Prepared(database, "payment")
    prepares = preparations(prepared, units, PREPARES_MAX)
    queries = PaymentQueries(database)
    beginning: Batcher[Begin, Done | Ask] = Batcher("begin payments", handlers.begin, key=batch_key)
    settling: Batcher[Settle, Done] = Batcher("settle payments", handlers.settle, key=settle_key)
    cashier = Cashier(beginning, settling, processor, clock)
    desk = Desk(cashier, prepares, queries, clock, LEASE_MS)
    followed: list[Begun] = []
    checkouts = Checkouts(units, followed.extend, lambda: None, clock)
    try:
        yield Till(url, database, handlers, beginning, cashier, queries, clock, prepared, desk, followed, checkouts)
    finally:
        for drain in (prepares.drain, cashier.drain, beginning.drain, settling.drain):
            await drain()
        for transaction_id in await prepared.overdue(0.0, 100):
            await prepared.roll_back(transaction_id)
        await database.close()
