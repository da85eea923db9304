"""The payment service's process: the only file that knows all of it."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc

from libs.choreography.events import CHECKOUTS_TOPIC, concerns
from libs.coordination.inquiry import Inquiry
from libs.coordination.remote import RemoteCoordinator
from libs.messaging.consumer import Consumer
from libs.messaging.redis_streams import RedisStreamsBroker
from libs.messaging.relay import Relay
from libs.runtime.batching import Batcher
from libs.runtime.clock import Ids, SystemClock
from libs.runtime.coordinator_rpc import ResolveCall
from libs.runtime.database import Database
from libs.runtime.grpc_edge import channel, create_server
from libs.runtime.http_edge import create_app
from libs.runtime.serve import Entrances, Loop, Process, main
from libs.tcc.barrier import Key
from libs.twophase.preparations import Preparations
from libs.twophase.prepared import Prepared
from proto.payment.v1 import payment_pb2, payment_pb2_grpc
from services.payment.adapters.choreography import Checkouts
from services.payment.adapters.owed import SOURCE
from services.payment.adapters.preparations import preparations
from services.payment.adapters.processor import HttpProcessor
from services.payment.adapters.queries import PaymentQueries
from services.payment.adapters.units import PostgresUnits
from services.payment.cashier import Cashier
from services.payment.choreography import PART
from services.payment.config import PREFIX, PaymentSettings
from services.payment.entrypoints.desk import Desk
from services.payment.entrypoints.grpc import PaymentServicer
from services.payment.entrypoints.holdings import DeskHoldings
from services.payment.entrypoints.http import router
from services.payment.following import Following
from services.payment.handlers import Ask, Begin, Done, PaymentHandlers, Settle, batch_key, settle_key
from services.payment.ports import Processor

MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class Payment:
    """The service without its entrances and loops."""

    database: Database
    clock: SystemClock
    ids: Ids
    units: PostgresUnits
    prepared: Prepared
    preparations: Preparations[Key, bool]
    queries: PaymentQueries
    beginning: Batcher[Begin, Done | Ask]
    settling: Batcher[Settle, Done]
    cashier: Cashier

    @classmethod
    def of(cls, database: Database, processor: Processor, settings: PaymentSettings) -> "Payment":
        clock = SystemClock()
        ids = Ids(clock)
        units = PostgresUnits(database, clock, ids)
        prepared = Prepared(database, "payment")
        handlers = PaymentHandlers(units)
        beginning: Batcher[Begin, Done | Ask] = Batcher("begin payments", handlers.begin, key=batch_key)
        settling: Batcher[Settle, Done] = Batcher("settle payments", handlers.settle, key=settle_key)
        return cls(
            database,
            clock,
            ids,
            units,
            prepared,
            preparations(prepared, units, max(1, settings.database_pool_size // 2)),
            PaymentQueries(database),
            beginning,
            settling,
            Cashier(beginning, settling, processor, clock),
        )


@asynccontextmanager
async def build(settings: PaymentSettings) -> AsyncIterator[Entrances]:
    """Opens what the payment service needs, wires it, and closes it again."""
    async with AsyncExitStack() as closing:
        database = Database.open(settings.database_url, settings.database_pool_size, "dockyard-payment")
        closing.push_async_callback(database.close)
        await database.check_schema(MIGRATIONS)
        processor = HttpProcessor(settings.psp_url, settings.psp_timeout_seconds, settings.psp_calls_in_flight_max)
        closing.push_async_callback(processor.close)

        payment = Payment.of(database, processor, settings)
        await payment.prepared.check()
        lease_ms = int(settings.hold_lease_seconds * 1000)
        desk = Desk(payment.cashier, payment.preparations, payment.queries, payment.clock, lease_ms)
        loops: list[Loop] = [
            lambda: payment.cashier.resume(
                payment.queries, settings.resume_after_seconds, settings.resume_every_seconds
            )
        ]
        if settings.redis_url:
            broker = RedisStreamsBroker.open(settings.redis_url)
            closing.push_async_callback(broker.close)
            loops += _messaging(payment, broker, settings)
        if settings.coordinator_address:
            peer = channel(settings.coordinator_address)
            closing.push_async_callback(peer.close)
            loops.append(_inquiry(payment, desk, peer, settings).run)

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
            loops=loops,
            drain=[payment.preparations.drain, payment.cashier.drain, payment.beginning.drain, payment.settling.drain],
        )


def _messaging(payment: Payment, broker: RedisStreamsBroker, settings: PaymentSettings) -> list[Loop]:
    """Publishes what happened, and hears what happened elsewhere."""
    relay = Relay(payment.database, broker, SOURCE, [CHECKOUTS_TOPIC], payment.clock, payment.ids)
    payment.units.on_said = relay.nudge
    following = Following(payment.cashier.carry_on)
    checkouts = Checkouts(payment.units, following.follow, relay.nudge, payment.clock)
    consumer = Consumer(
        payment.database,
        broker,
        "payment-checkouts",
        [CHECKOUTS_TOPIC],
        checkouts.apply,
        payment.clock,
        concerns=partial(concerns, PART),
        name=settings.instance,
        after_commit=checkouts.committed,
    )
    return [relay.run, consumer.run, following.run]


def _inquiry(payment: Payment, desk: Desk, peer: grpc.aio.Channel, settings: PaymentSettings) -> Inquiry:
    """Asks the coordinator about what was kept for too long."""
    prepared_too_long = partial(payment.prepared.overdue, settings.prepared_patience_seconds)
    holdings = DeskHoldings(desk, payment.queries.authorised_too_long, prepared_too_long)
    coordinator = RemoteCoordinator(ResolveCall(peer))
    return Inquiry(holdings, coordinator, payment.clock, settings.inquiry_every_seconds)


if __name__ == "__main__":
    sys.exit(main(Process("payment", PREFIX, PaymentSettings, MIGRATIONS, build), sys.argv[1:]))
