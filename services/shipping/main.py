"""The shipping service's process: the only file that knows all of it."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from libs.messaging.consumer import Consumer
from libs.messaging.redis_streams import RedisStreamsBroker
from libs.messaging.relay import Relay
from libs.runtime.batching import Batcher
from libs.runtime.clock import Ids, SystemClock
from libs.runtime.database import Database
from libs.runtime.grpc_edge import create_server
from libs.runtime.http_edge import create_app
from libs.runtime.serve import Entrances, Loop, Process, main
from proto.shipping.v1 import shipping_pb2, shipping_pb2_grpc
from services.shipping.adapters.units import (
    ORDER_CONFIRMED,
    ORDERS_TOPIC,
    SHIPMENTS_TOPIC,
    SOURCE,
    PostgresUnits,
    ShippingQueries,
)
from services.shipping.config import PREFIX, ShippingSettings
from services.shipping.entrypoints.desk import Desk
from services.shipping.entrypoints.grpc import ShippingServicer
from services.shipping.entrypoints.http import router
from services.shipping.handlers import Command, Done, ShippingHandlers, batch_key

MIGRATIONS = Path(__file__).parent / "migrations"


@asynccontextmanager
async def build(settings: ShippingSettings) -> AsyncIterator[Entrances]:
    """Opens what the shipping service needs, wires it, and closes it again."""
    clock = SystemClock()
    ids = Ids(clock)
    async with AsyncExitStack() as closing:
        database = Database.open(settings.database_url, settings.database_pool_size, "dockyard-shipping")
        closing.push_async_callback(database.close)
        await database.check_schema(MIGRATIONS)

        units = PostgresUnits(database, ids)
        handlers = ShippingHandlers(units, settings.days_ahead)
        commands: Batcher[Command, Done] = Batcher("shipping", handlers.execute, key=batch_key)
        loops: list[Loop] = []
        if settings.redis_url:
            broker = RedisStreamsBroker.open(settings.redis_url)
            closing.push_async_callback(broker.close)
            relay = Relay(database, broker, SOURCE, [SHIPMENTS_TOPIC], clock, ids)
            orders = Consumer(
                database,
                broker,
                "shipping-orders",
                [ORDERS_TOPIC],
                units.apply_orders,
                clock,
                types=[ORDER_CONFIRMED],
                name=settings.instance,
            )
            units.on_commit = relay.nudge
            loops += [relay.run, orders.run]

        desk = Desk(commands, ShippingQueries(database), clock, ids)
        server, serving = create_server(
            [shipping_pb2.DESCRIPTOR.services_by_name["ShippingService"].full_name],
            lambda server: shipping_pb2_grpc.add_ShippingServiceServicer_to_server(ShippingServicer(desk), server),
        )
        yield Entrances(
            app=create_app("shipping", "Carriers, capacity and shipments.", router(desk), [database.ping]),
            grpc_server=server,
            serving=serving,
            loops=loops,
            drain=[commands.drain],
        )


if __name__ == "__main__":
    sys.exit(main(Process("shipping", PREFIX, ShippingSettings, MIGRATIONS, build), sys.argv[1:]))
