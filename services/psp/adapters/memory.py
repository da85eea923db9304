"""What the card processor charged and authorised, remembered in its own database before it answers anybody."""

from collections.abc import Mapping, Sequence

from sqlalchemy import TextClause, text

from libs.kernel.errors import DockyardError, InDoubt, Unavailable
from libs.runtime.clock import Ids
from libs.runtime.database import Database
from libs.runtime.sql import bigints, booleans, texts
from services.psp.domain import (
    Charge,
    ChargeRequest,
    Ending,
    Refund,
    RefundRequest,
    Reversal,
    Status,
    charge_outcome,
    ending_outcome,
    refund_outcome,
    reversal_outcome,
)

_COLUMNS = "charge_id, key, reference, amount_minor, currency, refunded_minor, capture, status"

# Everything here locks charges in the order of their keys, so that nobody waits in a circle.

# Takes the money, or sets it aside, once for each key; a key that was used answers its first charge.
CHARGE = text(
    f"""
    INSERT INTO charges (charge_id, key, reference, amount_minor, currency, capture, status)
    SELECT charge_id, key, reference, amount_minor, currency, capture,
           CASE WHEN capture THEN 'captured' ELSE 'authorised' END
      FROM unnest(:charge_ids, :keys, :references, :amounts, :currencies, :captures)
           AS new (charge_id, key, reference, amount_minor, currency, capture)
    ORDER BY key
    ON CONFLICT (key) DO UPDATE SET key = excluded.key
    RETURNING {_COLUMNS}
    """  # noqa: S608  (the columns are a constant)
).bindparams(*texts("charge_ids", "keys", "references", "currencies"), *bigints("amounts"), *booleans("captures"))

# Voids what is authorised under each key; where there is nothing, what comes later finds it voided.
REVERSE = text(
    f"""
    INSERT INTO charges (charge_id, key, reference, amount_minor, currency, capture, status)
    SELECT charge_id, key, reference, amount_minor, currency, false, 'voided'
      FROM unnest(:charge_ids, :keys, :references, :amounts, :currencies)
           AS new (charge_id, key, reference, amount_minor, currency)
    ORDER BY key
    ON CONFLICT (key) DO UPDATE SET status = CASE
        WHEN charges.status = 'authorised'
         AND (charges.reference, charges.amount_minor, charges.currency)
           = (excluded.reference, excluded.amount_minor, excluded.currency)
        THEN 'voided' ELSE charges.status END
    RETURNING {_COLUMNS}
    """  # noqa: S608
).bindparams(*texts("charge_ids", "keys", "references", "currencies"), *bigints("amounts"))

# Captures or voids what is authorised; every other charge stays as it is.
END = text(
    """
    WITH asked AS (
        SELECT * FROM unnest(:charge_ids, :statuses) AS asked (charge_id, status)
    ), locked AS (
        SELECT charge_id FROM charges WHERE charge_id = ANY(:charge_ids) ORDER BY key FOR UPDATE
    )
    UPDATE charges SET status = asked.status
      FROM asked JOIN locked USING (charge_id)
     WHERE charges.charge_id = asked.charge_id AND charges.status = 'authorised'
    """
).bindparams(*texts("charge_ids", "statuses"))

# Gives the money back once for each key, as far as there is money left to give.
REFUND = text(
    """
    WITH asked AS (
        SELECT * FROM unnest(:keys, :charge_ids, :amounts) AS asked (key, charge_id, amount_minor)
    ), locked AS (
        SELECT charge_id, amount_minor - refunded_minor AS left_minor FROM charges
         WHERE charge_id = ANY(:charge_ids) AND status = 'captured' ORDER BY key FOR UPDATE
    ), added AS (
        INSERT INTO refunds (key, charge_id, amount_minor)
        SELECT asked.key, asked.charge_id, asked.amount_minor
          FROM asked JOIN locked USING (charge_id)
         WHERE asked.amount_minor <= locked.left_minor
        ON CONFLICT DO NOTHING
        RETURNING charge_id, amount_minor
    )
    UPDATE charges SET refunded_minor = refunded_minor + added.amount_minor
      FROM added WHERE charges.charge_id = added.charge_id
    """
).bindparams(*texts("keys", "charge_ids"), *bigints("amounts"))

REFUNDED = text("SELECT key, charge_id, amount_minor FROM refunds WHERE key = ANY(:keys)").bindparams(*texts("keys"))
EXISTING = text("SELECT charge_id FROM charges WHERE charge_id = ANY(:charge_ids)").bindparams(*texts("charge_ids"))
BY_ID = text(f"SELECT {_COLUMNS} FROM charges WHERE charge_id = ANY(:charge_ids)").bindparams(  # noqa: S608
    *texts("charge_ids")
)
PAGE = text(f"SELECT {_COLUMNS} FROM charges WHERE charge_id > :after ORDER BY charge_id LIMIT :limit")  # noqa: S608
BY_REFERENCE = text(
    f"SELECT {_COLUMNS} FROM charges WHERE reference = :reference AND charge_id > :after"  # noqa: S608
    " ORDER BY charge_id LIMIT :limit"
)
BY_KEY = text(f"SELECT {_COLUMNS} FROM charges WHERE key = :key")  # noqa: S608


class ChargeMemory:
    """A batch charges each key, and refunds each charge, at most once: the batchers' keys see to that."""

    def __init__(self, database: Database, ids: Ids) -> None:
        self._database = database
        self._ids = ids

    async def charge(self, requests: Sequence[ChargeRequest]) -> Sequence[Charge | DockyardError]:
        """Charges or authorises each key once; the same key for something else is refused."""
        values = self._columns(requests) | {"captures": [request.capture for request in requests]}
        charges = await self._written(CHARGE, values)
        return [charge_outcome(request, charges[request.key]) for request in requests]

    async def reverse(self, requests: Sequence[Reversal]) -> Sequence[Charge | DockyardError]:
        """Voids what each key authorised, or will; what was captured is refused."""
        charges = await self._written(REVERSE, self._columns(requests))
        return [reversal_outcome(request, charges[request.key]) for request in requests]

    def _columns(self, requests: Sequence[ChargeRequest | Reversal]) -> dict[str, Sequence[object]]:
        return {
            "charge_ids": [self._ids.new("ch") for _ in requests],
            "keys": [request.key for request in requests],
            "references": [request.reference for request in requests],
            "amounts": [request.amount_minor for request in requests],
            "currencies": [request.currency for request in requests],
        }

    async def _written(self, statement: TextClause, values: Mapping[str, object]) -> Mapping[str, Charge]:
        """The charges of a statement by their keys."""
        # One statement is a transaction by itself: that saves two round trips on the path of every order.
        try:
            async with self._database.read() as connection:
                rows = (await connection.execute(statement, values)).all()
        except Unavailable as error:
            # It commits as it ends, so a connection lost on the way may have charged.
            raise InDoubt(error.message, code=error.code, retry_after_seconds=error.retry_after_seconds) from error
        return {charge.key: charge for charge in (_charge(*row) for row in rows)}

    async def end(self, requests: Sequence[Ending]) -> Sequence[Charge | DockyardError]:
        """Captures or voids each authorisation, once; what ended in another way is refused."""
        charge_ids = [request.charge_id for request in requests]
        async with self._database.transaction() as connection:
            await connection.execute(
                END, {"charge_ids": charge_ids, "statuses": [request.status.value for request in requests]}
            )
            rows = await connection.execute(BY_ID, {"charge_ids": charge_ids})
            kept = {charge.charge_id: charge for charge in (_charge(*row) for row in rows)}
        return [ending_outcome(request, kept.get(request.charge_id)) for request in requests]

    async def refund(self, requests: Sequence[RefundRequest]) -> Sequence[Refund | DockyardError]:
        """Refunds each key once; more than is left of the charge is refused."""
        values = {"keys": [request.key for request in requests], "charge_ids": [one.charge_id for one in requests]}
        async with self._database.transaction() as connection:
            await connection.execute(REFUND, values | {"amounts": [request.amount_minor for request in requests]})
            rows = await connection.execute(REFUNDED, {"keys": values["keys"]})
            kept = {refund.key: refund for refund in (Refund(*row) for row in rows)}
            existing = set((await connection.execute(EXISTING, {"charge_ids": values["charge_ids"]})).scalars())
        return [refund_outcome(one, kept.get(one.key), one.charge_id in existing) for one in requests]

    async def page(self, reference: str, after: str, limit: int) -> tuple[list[Charge], str]:
        values: dict[str, str | int] = {"after": after, "limit": limit + 1}
        statement = BY_REFERENCE if reference else PAGE
        async with self._database.read() as connection:
            rows = await connection.execute(statement, values | ({"reference": reference} if reference else {}))
            charges = [_charge(*row) for row in rows]
        return charges[:limit], charges[limit - 1].charge_id if len(charges) > limit else ""

    async def by_key(self, key: str) -> list[Charge]:
        async with self._database.read() as connection:
            return [_charge(*row) for row in await connection.execute(BY_KEY, {"key": key})]


def _charge(
    charge_id: str,
    key: str,
    reference: str,
    amount_minor: int,
    currency: str,
    refunded_minor: int,
    capture: bool,
    status: str,
) -> Charge:
    return Charge(charge_id, key, reference, amount_minor, currency, refunded_minor, capture, Status(status))
