"""The order service's process: the only file that knows all of it."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from libs.eventsourcing.projection import Projector
from libs.messaging.consumer import Consumer
from libs.messaging.redis_streams import RedisStreamsBroker
from libs.messaging.relay import Relay
from libs.runtime.batching import Batcher
from libs.runtime.clock import Ids, SystemClock
from libs.runtime.database import Database
from libs.runtime.grpc_edge import channel, create_server
from libs.runtime.http_edge import create_app
from libs.runtime.serve import Entrances, Loop, Process, main
from libs.saga.executor import Executor
from libs.saga.postgres_log import PostgresSagaLog
from proto.order.v1 import order_pb2, order_pb2_grpc
from services.order.adapters import participants, view
from services.order.adapters.codec import ORDERS_TOPIC, SOURCE
from services.order.adapters.local import OrderParticipant
from services.order.adapters.queries import OrderQueries
from services.order.adapters.subscriptions import CATALOGUE_TOPIC, SHIPMENTS_TOPIC, CatalogueCopy, ShippedOrders
from services.order.adapters.timeline import SagaTimelines
from services.order.adapters.units import Committed, PostgresUnits
from services.order.adapters.watch import OrderWatch
from services.order.config import PREFIX, OrderSettings
from services.order.entrypoints.desk import Desk
from services.order.entrypoints.grpc import OrderServicer
from services.order.entrypoints.http import router
from services.order.handlers import Change, OrderHandlers, Placing, Written
from services.order.saga import SAGAS, Cancellation, Checkout

MIGRATIONS = Path(__file__).parent / "migrations"


@asynccontextmanager
async def build(settings: OrderSettings) -> AsyncIterator[Entrances]:
    """Opens what the order service needs, wires it, and closes it again."""
    clock = SystemClock()
    ids = Ids(clock)
    async with AsyncExitStack() as closing:
        database = Database.open(settings.database_url, settings.database_pool_size, "dockyard-order")
        closing.push_async_callback(database.close)
        await database.check_schema(MIGRATIONS)

        watch = OrderWatch()
        units = PostgresUnits(database, clock, ids)
        handlers = OrderHandlers(units)
        placing: Batcher[Placing, Written] = Batcher("place orders", handlers.place, key=lambda one: one.key)
        changing: Batcher[Change, Written] = Batcher("change orders", handlers.change, key=lambda one: one.order_id)

        projector = Projector(database, view.VIEW_NAME, view.apply, clock)
        saga_log = PostgresSagaLog(database, {"checkout": Checkout, "cancellation": Cancellation}, clock)
        remote = [
            make(await closing.enter_async_context(channel(address)), clock, settings.calls_in_flight_max)
            for make, address in (
                (participants.inventory, settings.inventory_address),
                (participants.payment, settings.payment_address),
                (participants.shipping, settings.shipping_address),
            )
        ]
        executor = Executor(
            SAGAS,
            {"order": OrderParticipant(changing, clock), **{one.name: one for one in remote}},
            saga_log,
            clock,
            in_flight_max=settings.sagas_in_flight_max,
        )
        loops: list[Loop] = [projector.run, executor.run]
        nudges = [projector.nudge]
        if settings.redis_url:
            broker = RedisStreamsBroker.open(settings.redis_url)
            closing.push_async_callback(broker.close)
            relay = Relay(database, broker, SOURCE, [ORDERS_TOPIC], clock, ids)
            nudges.append(relay.nudge)
            loops += [relay.run, *_consumers(settings, database, broker, units, clock)]

        def committed(done: Committed) -> None:
            for order in done.orders:
                watch.committed(order)
                if order.cancel_requested and not order.decided:
                    executor.request_cancel(order.order_id, order.cancel_requested)
            executor.start(done.sagas)
            for nudge in nudges:
                nudge()

        units.on_commit = committed
        queries = OrderQueries(database, projector)
        timelines = SagaTimelines(database, saga_log, queries)
        desk = Desk(placing, changing, queries, watch, clock, ids)
        server, serving = create_server(
            [order_pb2.DESCRIPTOR.services_by_name["OrderService"].full_name],
            lambda server: order_pb2_grpc.add_OrderServiceServicer_to_server(
                OrderServicer(desk, queries, timelines), server
            ),
        )
        yield Entrances(
            app=create_app(
                "order", "Takes orders and owns their life.", router(desk, queries, timelines), [database.ping]
            ),
            grpc_server=server,
            serving=serving,
            loops=loops,
            drain=[placing.drain, changing.drain, executor.drain, *(one.batcher.drain for one in remote)],
        )


def _consumers(
    settings: OrderSettings, database: Database, broker: RedisStreamsBroker, units: PostgresUnits, clock: SystemClock
) -> list[Loop]:
    catalogue = Consumer(
        database, broker, "order-catalogue", [CATALOGUE_TOPIC], CatalogueCopy().apply, clock, name=settings.instance
    )
    shipments = Consumer(
        database,
        broker,
        "order-shipments",
        [SHIPMENTS_TOPIC],
        ShippedOrders(units).apply,
        clock,
        name=settings.instance,
    )
    return [catalogue.run, shipments.run]


if __name__ == "__main__":
    sys.exit(main(Process("order", PREFIX, OrderSettings, MIGRATIONS, build), sys.argv[1:]))
