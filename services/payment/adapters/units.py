"""Transactions of the payment service on PostgreSQL: accounts, payments, ledger, barrier."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import Invalid, NotFound
from libs.kernel.money import Money
from libs.runtime.database import Database
from libs.runtime.failpoints import declare, failpoint
from libs.runtime.sql import bigints, booleans, instants, texts
from libs.tcc.postgres_barrier import PostgresBarrier
from services.payment.domain import Entry, Payment, Status
from services.payment.ports import Account, Posting

COMMIT_BEFORE, COMMIT_AFTER = "payment.commit.before", "payment.commit.after"
declare(COMMIT_BEFORE, COMMIT_AFTER)

_COLUMNS = """
    payment_id, transaction_id, step, account_id, amount_minor, currency, card_token, status, created_at,
    decline_code, processor_reference, refund_wanted
"""

# Holds the payments of the batch until its end; in key order, so two batches never wait in a circle.
LOCK = text(
    f"""
    SELECT {_COLUMNS}
      FROM payments JOIN unnest(:transaction_ids, :steps) AS asked (transaction_id, step) USING (transaction_id, step)
     ORDER BY payment_id FOR UPDATE OF payments
    """  # noqa: S608  (the columns are a constant)
).bindparams(*texts("transaction_ids", "steps"))

# Adds payments, opening the accounts that are new, in one round trip; accounts in key order, so that two batches never
# wait in a circle.
ADD = text(
    """
    WITH new AS (
        SELECT * FROM unnest(:payment_ids, :transaction_ids, :steps, :account_ids, :amounts, :currencies,
                             :card_tokens, :created_at)
            AS new (payment_id, transaction_id, step, account_id, amount_minor, currency, card_token, created_at)
    ), opened AS (
        INSERT INTO accounts (account_id, name)
        SELECT DISTINCT account_id, account_id FROM new ORDER BY 1
        ON CONFLICT DO NOTHING
    )
    INSERT INTO payments (payment_id, transaction_id, step, account_id, amount_minor, currency, card_token, status,
                          created_at)
    SELECT payment_id, transaction_id, step, account_id, amount_minor, currency, card_token, 'charging', created_at
      FROM new
    """
).bindparams(
    *texts("payment_ids", "transaction_ids", "steps", "account_ids", "currencies", "card_tokens"),
    *bigints("amounts"),
    *instants("created_at"),
)

# Writes down where payments have got to.
SAVE = text(
    """
    UPDATE payments
       SET status = new.status, decline_code = new.decline_code, processor_reference = new.processor_reference,
           refund_wanted = new.refund_wanted
      FROM unnest(:payment_ids, :statuses, :decline_codes, :references, :refunds_wanted)
           AS new (payment_id, status, decline_code, processor_reference, refund_wanted)
     WHERE payments.payment_id = new.payment_id
    """
).bindparams(*texts("payment_ids", "statuses", "decline_codes", "references"), *booleans("refunds_wanted"))

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

# A page of what has not ended, oldest first; the index on it holds nothing else.
UNFINISHED = text(
    f"""
    SELECT {_COLUMNS} FROM payments
     WHERE status IN ('charging', 'refunding') AND created_at < :before
       AND (created_at, payment_id) > (:after_created_at, :after_payment_id)
     ORDER BY created_at, payment_id LIMIT :limit
    """  # noqa: S608
)
ONE = text(f"SELECT {_COLUMNS} FROM payments WHERE payment_id = :payment_id")  # noqa: S608

# An account and its balance, the sum of its postings; in the currency of the first, for currencies do not add up.
ACCOUNT = text(
    """
    SELECT accounts.name, coalesce(sum(postings.amount_minor), 0)::bigint, coalesce(first.currency, 'EUR')
      FROM accounts
      LEFT JOIN LATERAL (
               SELECT currency FROM postings WHERE account = 'customer:' || accounts.account_id
                ORDER BY posting_id LIMIT 1
           ) AS first ON true
      LEFT JOIN postings
        ON postings.account = 'customer:' || accounts.account_id AND postings.currency = first.currency
     WHERE accounts.account_id = :account_id GROUP BY accounts.name, first.currency
    """
)
POSTINGS = text(
    """
    SELECT posting_id, entry_id, account, amount_minor, currency, memo, payment_id, posted_at FROM postings
     WHERE account = 'customer:' || :account_id AND posting_id < :before ORDER BY posting_id DESC LIMIT :limit
    """
)
# Above every posting_id.
NEWEST = 2**63 - 1
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class PostgresPayments:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def lock(self, transactions: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], Payment]:
        if not transactions:
            return {}
        pairs = list(transactions)
        values = {"transaction_ids": [pair[0] for pair in pairs], "steps": [pair[1] for pair in pairs]}
        payments = [_payment(*row) for row in await self._connection.execute(LOCK, values)]
        return {(payment.transaction_id, payment.step): payment for payment in payments}

    async def add(self, payments: Sequence[Payment]) -> None:
        if not payments:
            return
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
                "created_at": [payment.created_at for payment in payments],
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
    def __init__(self, connection: AsyncConnection) -> None:
        self.payments = PostgresPayments(connection)
        self.barrier = PostgresBarrier(connection)


class PostgresUnits:
    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def open(self) -> AsyncIterator[PostgresUnit]:
        async with self._database.transaction() as connection:
            yield PostgresUnit(connection)
            failpoint(COMMIT_BEFORE)
        failpoint(COMMIT_AFTER)


class PaymentQueries:
    """Reads accounts, statements and payments."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def account(self, account_id: str) -> Account:
        async with self._database.read() as connection:
            row = (await connection.execute(ACCOUNT, {"account_id": account_id})).first()
        if row is None:
            raise NotFound(f"there is no account {account_id}")
        return Account(account_id, row[0], Money(row[1], row[2]))

    async def postings(self, account_id: str, before: str, limit: int) -> tuple[list[Posting], str]:
        values = {"account_id": account_id, "before": _posting_id(before), "limit": limit + 1}
        async with self._database.read() as connection:
            rows = (await connection.execute(POSTINGS, values)).all()
        if not rows:
            await self.account(account_id)  # a known account's empty page, or no such account
        found = [
            Posting(posting_id, entry_id, account, Money(amount, currency), memo, payment_id, posted_at)
            for posting_id, entry_id, account, amount, currency, memo, payment_id, posted_at in rows
        ]
        return found[:limit], str(found[limit - 1].posting_id) if len(found) > limit else ""

    async def payment(self, payment_id: str) -> Payment:
        async with self._database.read() as connection:
            row = (await connection.execute(ONE, {"payment_id": payment_id})).one_or_none()
        if row is None:
            raise NotFound(f"there is no payment {payment_id}")
        return _payment(*row)

    async def unfinished(self, before: datetime, after: Payment | None, limit: int) -> Sequence[Payment]:
        values = {
            "before": before,
            "after_created_at": after.created_at if after else BEGINNING,
            "after_payment_id": after.payment_id if after else "",
            "limit": limit,
        }
        async with self._database.read() as connection:
            return [_payment(*row) for row in await connection.execute(UNFINISHED, values)]


def _posting_id(page: str) -> int:
    """Where a page ends. Raises Invalid when the token held something else."""
    if not page:
        return NEWEST
    if not page.isdecimal() or int(page) > NEWEST:
        raise Invalid("page_token is not one we gave out", code="page-token-invalid")
    return int(page)


def _payment(  # noqa: PLR0913, PLR0917  (one for each column)
    payment_id: str,
    transaction_id: str,
    step: str,
    account_id: str,
    amount_minor: int,
    currency: str,
    card_token: str,
    status: str,
    created_at: datetime,
    decline_code: str,
    processor_reference: str,
    refund_wanted: bool,
) -> Payment:
    return Payment(
        payment_id,
        transaction_id,
        step,
        account_id,
        Money(amount_minor, currency),
        card_token,
        Status(status),
        created_at,
        decline_code,
        processor_reference,
        refund_wanted,
    )
