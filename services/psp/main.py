"""The simulated card processor's process: the only file that knows all of it."""

import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from libs.runtime.batching import Batcher
from libs.runtime.clock import Ids, SystemClock
from libs.runtime.database import Database
from libs.runtime.http_edge import create_app
from libs.runtime.serve import Entrances, Process, main
from services.psp.adapters.memory import ChargeMemory
from services.psp.config import PREFIX, PspSettings
from services.psp.entrypoints.http import Desk, Work, router

MIGRATIONS = Path(__file__).parent / "migrations"
# What the HTTP server says of an answer that is never given: here that is no mistake.
HUNG_UP = "ASGI callable returned without completing response."


@asynccontextmanager
async def build(settings: PspSettings) -> AsyncIterator[Entrances]:
    """Opens what the card processor needs, wires it, and closes it again."""
    clock = SystemClock()
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.msg != HUNG_UP)
    async with AsyncExitStack() as closing:
        database = Database.open(settings.database_url, settings.database_pool_size, "dockyard-psp")
        closing.push_async_callback(database.close)
        await database.check_schema(MIGRATIONS)
        memory = ChargeMemory(database, Ids(clock))
        work = Work(
            Batcher("charges", memory.charge, key=lambda one: one.key),
            Batcher("refunds", memory.refund, key=lambda one: one.charge_id),
            Batcher("endings", memory.end, key=lambda one: one.charge_id),
            Batcher("reversals", memory.reverse, key=lambda one: one.key),
        )
        desk = Desk(work, memory, clock, settings.slow_seconds)
        yield Entrances(
            app=create_app("psp", "A card processor that misbehaves on demand.", router(desk), [database.ping]),
            drain=[work.charging.drain, work.refunding.drain, work.ending.drain, work.reversing.drain],
        )


if __name__ == "__main__":
    sys.exit(main(Process("psp", PREFIX, PspSettings, MIGRATIONS, build), sys.argv[1:]))
