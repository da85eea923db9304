"""The payment service's process: the only file that knows all of it."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from libs.runtime.batching import Batcher
from libs.runtime.clock import SystemClock
from libs.runtime.database import Database
from libs.runtime.grpc_edge import create_server
from libs.runtime.http_edge import create_app
from libs.runtime.serve import Entrances, Process, main
from proto.payment.v1 import payment_pb2, payment_pb2_grpc
from services.payment.adapters.processor import HttpProcessor
from services.payment.adapters.units import PaymentQueries, PostgresUnits
from services.payment.cashier import Cashier
from services.payment.config import PREFIX, PaymentSettings
from services.payment.entrypoints.desk import Desk
from services.payment.entrypoints.grpc import PaymentServicer
from services.payment.entrypoints.http import router
from services.payment.handlers import Ask, Begin, Done, PaymentHandlers, Settle, batch_key, settle_key

MIGRATIONS = Path(__file__).parent / "migrations"


@asynccontextmanager
async def build(settings: PaymentSettings) -> AsyncIterator[Entrances]:
    """Opens what the payment service needs, wires it, and closes it again."""
    clock = SystemClock()
    async with AsyncExitStack() as closing:
        database = Database.open(settings.database_url, settings.database_pool_size, "dockyard-payment")
        closing.push_async_callback(database.close)
        await database.check_schema(MIGRATIONS)
        processor = HttpProcessor(settings.psp_url, settings.psp_timeout_seconds, settings.psp_calls_in_flight_max)
        closing.push_async_callback(processor.close)

        handlers = PaymentHandlers(PostgresUnits(database))
        beginning: Batcher[Begin, Done | Ask] = Batcher("begin payments", handlers.begin, key=batch_key)
        settling: Batcher[Settle, Done] = Batcher("settle payments", handlers.settle, key=settle_key)
        cashier = Cashier(beginning, settling, processor, clock)
        queries = PaymentQueries(database)
        desk = Desk(cashier, queries, clock)
        server, serving = create_server(
            [payment_pb2.DESCRIPTOR.services_by_name["PaymentService"].full_name],
            lambda server: payment_pb2_grpc.add_PaymentServiceServicer_to_server(
                PaymentServicer(desk, settings.batch_answer_within_seconds), server
            ),
        )
        yield Entrances(
            app=create_app("payment", "Accounts, payments and their ledger.", router(desk), [database.ping]),
            grpc_server=server,
            serving=serving,
            loops=[lambda: cashier.resume(queries, settings.resume_after_seconds, settings.resume_every_seconds)],
            drain=[cashier.drain, beginning.drain, settling.drain],
        )


if __name__ == "__main__":
    sys.exit(main(Process("payment", PREFIX, PaymentSettings, MIGRATIONS, build), sys.argv[1:]))
