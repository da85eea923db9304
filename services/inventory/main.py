"""The inventory service's process: the only file that knows all of it."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from libs.messaging.redis_streams import RedisStreamsBroker
from libs.messaging.relay import Relay
from libs.runtime.batching import Batcher
from libs.runtime.clock import Ids, SystemClock
from libs.runtime.database import Database
from libs.runtime.grpc_edge import create_server
from libs.runtime.http_edge import create_app
from libs.runtime.serve import Entrances, Loop, Process, main
from proto.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from services.inventory.adapters.units import CATALOGUE_TOPIC, SOURCE, PostgresUnits, ProductQueries
from services.inventory.config import PREFIX, InventorySettings
from services.inventory.entrypoints.desk import Desk
from services.inventory.entrypoints.grpc import InventoryServicer
from services.inventory.entrypoints.http import router
from services.inventory.handlers import Command, Done, InventoryHandlers, batch_key

MIGRATIONS = Path(__file__).parent / "migrations"


@asynccontextmanager
async def build(settings: InventorySettings) -> AsyncIterator[Entrances]:
    """Opens what the inventory service needs, wires it, and closes it again."""
    clock = SystemClock()
    ids = Ids(clock)
    async with AsyncExitStack() as closing:
        database = Database.open(settings.database_url, settings.database_pool_size, "dockyard-inventory")
        closing.push_async_callback(database.close)
        await database.check_schema(MIGRATIONS)

        units = PostgresUnits(database, clock, ids)
        commands: Batcher[Command, Done] = Batcher("inventory", InventoryHandlers(units).execute, key=batch_key)
        loops: list[Loop] = []
        if settings.redis_url:
            broker = RedisStreamsBroker.open(settings.redis_url)
            closing.push_async_callback(broker.close)
            relay = Relay(database, broker, SOURCE, [CATALOGUE_TOPIC], clock, ids)
            units.on_commit = relay.nudge
            loops.append(relay.run)

        desk = Desk(commands, ProductQueries(database))
        server, serving = create_server(
            [inventory_pb2.DESCRIPTOR.services_by_name["InventoryService"].full_name],
            lambda server: inventory_pb2_grpc.add_InventoryServiceServicer_to_server(InventoryServicer(desk), server),
        )
        yield Entrances(
            app=create_app("inventory", "Products, their prices and their stock.", router(desk), [database.ping]),
            grpc_server=server,
            serving=serving,
            loops=loops,
            drain=[commands.drain],
        )


if __name__ == "__main__":
    sys.exit(main(Process("inventory", PREFIX, InventorySettings, MIGRATIONS, build), sys.argv[1:]))
