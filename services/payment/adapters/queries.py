"""What is read from the payment service's database outside of its transactions."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import text

from libs.kernel.errors import Invalid, NotFound
from libs.kernel.money import Money
from libs.runtime.database import Database
from libs.tcc.barrier import Manner, Operation
from libs.tcc.trail import Trail, Words, read_trail
from services.payment.adapters.rows import COLUMNS, payment_of
from services.payment.domain import CHARGE, Payment
from services.payment.ports import Account, Posting

# What is prepared needs no word of its own: the authorisation before it is there for all to see.
WORDS: Mapping[str, Words] = {
    CHARGE: Words(
        effects={
            (Operation.DO, Manner.AT_ONCE): "card charged",
            (Operation.DO, Manner.HOLD): "card authorised",
            (Operation.DO, Manner.PREPARE): "card authorised",
            (Operation.CONFIRM, Manner.AT_ONCE): "charge captured",
            (Operation.UNDO, Manner.AT_ONCE): "charge refunded",
            (Operation.UNDO, Manner.HOLD): "authorisation voided",
            (Operation.UNDO, Manner.PREPARE): "authorisation voided",
        },
        kept={Manner.HOLD: "money authorised", Manner.PREPARE: "money authorised"},
    )
}

# A page of what has not ended, oldest first; the index on it holds nothing else.
UNFINISHED = text(
    f"""
    SELECT {COLUMNS} FROM payments
     WHERE status IN ('charging', 'authorising', 'capturing', 'voiding', 'refunding') AND created_at < :before
       AND (created_at, payment_id) > (:after_created_at, :after_payment_id)
     ORDER BY created_at, payment_id LIMIT :limit
    """  # noqa: S608  (the columns are a constant)
)
ONE = text(f"SELECT {COLUMNS} FROM payments WHERE payment_id = :payment_id")  # noqa: S608  (the columns are a constant)

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
# The transactions whose authorisations have lasted longer than was agreed, by the database's clock.
OVERDUE = text(
    """
    SELECT transaction_id FROM payments
     WHERE status = 'authorised' AND lease_until < now() AND step = :step
     ORDER BY lease_until, transaction_id LIMIT :limit
    """
)
# Above every posting_id.
NEWEST = 2**63 - 1
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class PaymentQueries:
    """Reads accounts, statements, payments and trails."""

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
        return payment_of(*row)

    async def trail(self, transaction_id: str) -> Trail:
        async with self._database.read() as connection:
            return await read_trail(connection, transaction_id, WORDS)

    async def authorised_too_long(self, limit: int) -> Sequence[str]:
        """Transactions whose authorisation's lease has ended, longest ago first."""
        async with self._database.read() as connection:
            return (await connection.execute(OVERDUE, {"limit": limit, "step": CHARGE})).scalars().all()

    async def unfinished(self, before: datetime, after: Payment | None, limit: int) -> Sequence[Payment]:
        values = {
            "before": before,
            "after_created_at": after.created_at if after else BEGINNING,
            "after_payment_id": after.payment_id if after else "",
            "limit": limit,
        }
        async with self._database.read() as connection:
            return [payment_of(*row) for row in await connection.execute(UNFINISHED, values)]


def _posting_id(page: str) -> int:
    """Where a page ends. Raises Invalid when the token held something else."""
    if not page:
        return NEWEST
    if not page.isdecimal() or int(page) > NEWEST:
        raise Invalid("page_token is not one we gave out", code="page-token-invalid")
    return int(page)
