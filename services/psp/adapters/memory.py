"""What the card processor charged, remembered in its own database before it answers anybody."""

from collections.abc import Sequence

from sqlalchemy import text

from libs.kernel.errors import DockyardError, Mismatch, NotFound, Refused
from libs.runtime.clock import Ids
from libs.runtime.database import Database
from libs.runtime.sql import bigints, texts
from services.psp.domain import Charge, ChargeRequest, RefundRequest

_COLUMNS = "charge_id, key, reference, amount_minor, currency, refunded_minor"

# Takes the money once for each key; a key that was used answers its first charge.
CHARGE = text(
    f"""
    WITH added AS (
        INSERT INTO charges (charge_id, key, reference, amount_minor, currency)
        SELECT * FROM unnest(:charge_ids, :keys, :references, :amounts, :currencies)
        ORDER BY 2
        ON CONFLICT (key) DO UPDATE SET key = excluded.key
        RETURNING {_COLUMNS}
    )
    SELECT {_COLUMNS} FROM added
    """  # noqa: S608  (the columns are a constant)
).bindparams(*texts("charge_ids", "keys", "references", "currencies"), *bigints("amounts"))

# Gives the money back once for each key, as far as there is money left to give.
REFUND = text(
    """
    WITH asked AS (
        SELECT * FROM unnest(:keys, :charge_ids, :amounts) AS asked (key, charge_id, amount_minor)
    ), locked AS (
        SELECT charge_id, amount_minor - refunded_minor AS left_minor FROM charges
         WHERE charge_id = ANY(:charge_ids) ORDER BY charge_id FOR UPDATE
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

REFUNDED = text("SELECT key FROM refunds WHERE key = ANY(:keys)").bindparams(*texts("keys"))
EXISTING = text("SELECT charge_id FROM charges WHERE charge_id = ANY(:charge_ids)").bindparams(*texts("charge_ids"))
BY_REFERENCE = text(f"SELECT {_COLUMNS} FROM charges WHERE reference = :reference ORDER BY charge_id")  # noqa: S608
PAGE = text(f"SELECT {_COLUMNS} FROM charges WHERE charge_id > :after ORDER BY charge_id LIMIT :limit")  # noqa: S608


class ChargeMemory:
    def __init__(self, database: Database, ids: Ids) -> None:
        self._database = database
        self._ids = ids

    async def charge(self, requests: Sequence[ChargeRequest]) -> Sequence[Charge | DockyardError]:
        """Charges each key once; the same key with another amount is refused."""
        async with self._database.transaction() as connection:
            rows = await connection.execute(
                CHARGE,
                {
                    "charge_ids": [self._ids.new("ch") for _ in requests],
                    "keys": [request.key for request in requests],
                    "references": [request.reference for request in requests],
                    "amounts": [request.amount_minor for request in requests],
                    "currencies": [request.currency for request in requests],
                },
            )
            charges = {charge.key: charge for charge in (Charge(*row) for row in rows)}
        return [_checked(request, charges[request.key]) for request in requests]

    async def refund(self, requests: Sequence[RefundRequest]) -> Sequence[str | DockyardError]:
        """Refunds each key once; more than is left of the charge is refused."""
        values = {"keys": [request.key for request in requests], "charge_ids": [one.charge_id for one in requests]}
        async with self._database.transaction() as connection:
            await connection.execute(REFUND, values | {"amounts": [request.amount_minor for request in requests]})
            refunded = set((await connection.execute(REFUNDED, {"keys": values["keys"]})).scalars())
            existing = set((await connection.execute(EXISTING, {"charge_ids": values["charge_ids"]})).scalars())
        return [_refunded(request, request.key in refunded, request.charge_id in existing) for request in requests]

    async def by_reference(self, reference: str) -> list[Charge]:
        async with self._database.read() as connection:
            return [Charge(*row) for row in await connection.execute(BY_REFERENCE, {"reference": reference})]

    async def page(self, after: str, limit: int) -> tuple[list[Charge], str]:
        """Charges by id, and the key of the next page; "" at the end."""
        async with self._database.read() as connection:
            charges = [Charge(*row) for row in await connection.execute(PAGE, {"after": after, "limit": limit + 1})]
        return charges[:limit], charges[limit - 1].charge_id if len(charges) > limit else ""


def _checked(request: ChargeRequest, charge: Charge) -> Charge | DockyardError:
    if (charge.amount_minor, charge.currency) != (request.amount_minor, request.currency):
        return Mismatch("this Idempotency-Key charged another amount before")
    return charge


def _refunded(request: RefundRequest, done: bool, exists: bool) -> str | DockyardError:
    if not exists:
        return NotFound(f"there is no charge {request.charge_id}")
    return request.key if done else Refused("there is not that much left to refund", code="refund-too-large")
