"""Transactions of the payment service on PostgreSQL: accounts, payments, ledger, barrier, what is owed to others."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.runtime.clock import Clock, Ids
from libs.runtime.database import Database
from libs.runtime.failpoints import declare, failpoint
from libs.runtime.sql import bigints, booleans, instants, integers, texts
from libs.tcc.postgres_barrier import PostgresBarrier
from services.payment.adapters.owed import OwedEvents
from services.payment.adapters.rows import COLUMNS, payment_of
from services.payment.domain import Entry, Payment
from services.payment.ports import NewPayment

COMMIT_BEFORE, COMMIT_AFTER = "payment.commit.before", "payment.commit.after"
declare(COMMIT_BEFORE, COMMIT_AFTER)

# Holds the payments of the batch until its end; in key order, so two batches never wait in a circle.
LOCK = text(
    f"""
    SELECT {COLUMNS}
      FROM payments JOIN unnest(:transaction_ids, :steps) AS asked (transaction_id, step) USING (transaction_id, step)
     ORDER BY payment_id FOR UPDATE OF payments
    """  # noqa: S608  (the columns are a constant)
).bindparams(*texts("transaction_ids", "steps"))

# Adds payments, opening the accounts that are new, in one round trip; accounts in key order, so that two batches never
# wait in a circle. The lease of what is to be authorised begins now, by the database's clock.
ADD = text(
    """
    WITH new AS (
        SELECT * FROM unnest(:payment_ids, :transaction_ids, :steps, :account_ids, :amounts, :currencies,
                             :card_tokens, :statuses, :created_at, :announced, :leases_ms)
            AS new (payment_id, transaction_id, step, account_id, amount_minor, currency, card_token, status,
                    created_at, announced, lease_ms)
    ), opened AS (
        INSERT INTO accounts (account_id, name)
        SELECT DISTINCT account_id, account_id FROM new ORDER BY 1
        ON CONFLICT DO NOTHING
    )
    INSERT INTO payments (payment_id, transaction_id, step, account_id, amount_minor, currency, card_token, status,
                          created_at, announced, lease_until)
    SELECT payment_id, transaction_id, step, account_id, amount_minor, currency, card_token, status, created_at,
           announced, now() + lease_ms * interval '1 millisecond'
      FROM new
    """
).bindparams(
    *texts("payment_ids", "transaction_ids", "steps", "account_ids", "currencies", "card_tokens", "statuses"),
    *bigints("amounts"),
    *integers("leases_ms"),
    *booleans("announced"),
    *instants("created_at"),
)

# Writes down where payments have got to; only what is authorised, or about to be, keeps its lease.
SAVE = text(
    """
    UPDATE payments
       SET status = new.status, decline_code = new.decline_code, processor_reference = new.processor_reference,
           refund_wanted = new.refund_wanted, announced = new.announced,
           lease_until = CASE WHEN new.status IN ('authorising', 'authorised') THEN payments.lease_until END
      FROM unnest(:payment_ids, :statuses, :decline_codes, :references, :refunds_wanted, :announced)
           AS new (payment_id, status, decline_code, processor_reference, refund_wanted, announced)
     WHERE payments.payment_id = new.payment_id
    """
).bindparams(*texts("payment_ids", "statuses", "decline_codes", "references"), *booleans("refunds_wanted", "announced"))

# Both postings of an entry come from one row, so an entry cannot be out of balance.
POST = text(
    """
    INSERT INTO postings (entry_id, account, amount_minor, currency, memo, payment_id)
    SELECT entry_id, CASE sign WHEN 1 THEN debit ELSE credit END, sign * amount_minor, currency, memo, payment_id
      FROM unnest(:entry_ids, :debits, :credits, :amounts, :currencies, :memos, :payment_ids)
           AS new (entry_id, debit, credit, amount_minor, currency, memo, payment_id),
           (VALUES (1), (-1)) AS side (sign)
    ON CONFLICT DO NOTHING
    """
).bindparams(*texts("entry_ids", "debits", "credits", "currencies", "memos", "payment_ids"), *bigints("amounts"))

# Names accounts, opening those that are new; in key order, so two batches never wait in a circle.
NAME_ACCOUNTS = text(
    """
    INSERT INTO accounts (account_id, name)
    SELECT * FROM unnest(:account_ids, :names) ORDER BY 1
    ON CONFLICT (account_id) DO UPDATE SET name = excluded.name
    """
).bindparams(*texts("account_ids", "names"))


class PostgresPayments:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def lock(self, transactions: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], Payment]:
        if not transactions:
            return {}
        pairs = list(transactions)
        values = {"transaction_ids": [pair[0] for pair in pairs], "steps": [pair[1] for pair in pairs]}
        payments = [payment_of(*row) for row in await self._connection.execute(LOCK, values)]
        return {(payment.transaction_id, payment.step): payment for payment in payments}

    async def add(self, new: Sequence[NewPayment]) -> None:
        if not new:
            return
        payments = [one.payment for one in new]
        await self._connection.execute(
            ADD,
            {
                "payment_ids": [payment.payment_id for payment in payments],
                "transaction_ids": [payment.transaction_id for payment in payments],
                "steps": [payment.step for payment in payments],
                "account_ids": [payment.account_id for payment in payments],
                "amounts": [payment.amount.minor_units for payment in payments],
                "currencies": [payment.amount.currency for payment in payments],
                "card_tokens": [payment.card_token for payment in payments],
                "statuses": [payment.status.value for payment in payments],
                "created_at": [payment.created_at for payment in payments],
                "announced": [payment.announced for payment in payments],
                "leases_ms": [one.lease_ms for one in new],
            },
        )

    async def save(self, payments: Sequence[Payment]) -> None:
        if payments:
            await self._connection.execute(
                SAVE,
                {
                    "payment_ids": [payment.payment_id for payment in payments],
                    "statuses": [payment.status.value for payment in payments],
                    "decline_codes": [payment.decline_code for payment in payments],
                    "references": [payment.processor_reference for payment in payments],
                    "refunds_wanted": [payment.refund_wanted for payment in payments],
                    "announced": [payment.announced for payment in payments],
                },
            )

    async def post(self, entries: Sequence[Entry]) -> None:
        if entries:
            await self._connection.execute(
                POST,
                {
                    "entry_ids": [entry.entry_id for entry in entries],
                    "debits": [entry.debit for entry in entries],
                    "credits": [entry.credit for entry in entries],
                    "amounts": [entry.amount.minor_units for entry in entries],
                    "currencies": [entry.amount.currency for entry in entries],
                    "memos": [entry.memo for entry in entries],
                    "payment_ids": [entry.payment_id for entry in entries],
                },
            )

    async def name_accounts(self, names: Mapping[str, str]) -> None:
        if names:
            await self._connection.execute(NAME_ACCOUNTS, {"account_ids": list(names), "names": list(names.values())})


class PostgresUnit:
    def __init__(self, connection: AsyncConnection, clock: Clock, ids: Ids) -> None:
        self.payments = PostgresPayments(connection)
        self.barrier = PostgresBarrier(connection)
        self.announcements = OwedEvents(connection, clock, ids)


class PostgresUnits:
    """Opens transactions, and tells a listener that one committed which said something."""

    def __init__(self, database: Database, clock: Clock, ids: Ids) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self.on_said: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[PostgresUnit]:
        async with self._database.transaction() as connection:
            unit = self.joining(connection)
            yield unit
            failpoint(COMMIT_BEFORE)
        failpoint(COMMIT_AFTER)
        if unit.announcements.said:
            self.on_said()

    def joining(self, connection: AsyncConnection) -> PostgresUnit:
        """A unit inside somebody else's transaction, who decides when it commits."""
        return PostgresUnit(connection, self._clock, self._ids)
