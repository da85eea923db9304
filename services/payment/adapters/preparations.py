"""Captures that are prepared: the payment's way from authorised to capturing waits for its coordinator's decision."""

from sqlalchemy.ext.asyncio import AsyncConnection

from libs.kernel.errors import DockyardError
from libs.tcc.barrier import Key
from libs.twophase.preparations import Preparations
from libs.twophase.prepared import Prepared
from services.payment.adapters.units import PostgresUnits
from services.payment.handlers import prepare


def preparations(prepared: Prepared, units: PostgresUnits, in_flight_max: int) -> Preparations[Key, bool]:
    """Votes yes for what is authorised, or was prepared before."""

    async def work(connection: AsyncConnection, key: Key) -> tuple[bool | DockyardError, bool]:
        answered, yes = await prepare(units.joining(connection), key)
        return (answered if isinstance(answered, DockyardError) else True), yes

    return Preparations(prepared, "payment", work, lambda _: True, lambda key: key.transaction_id, in_flight_max)
