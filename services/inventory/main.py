"""The inventory service's process: the only file that knows all of it."""

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
from libs.twophase.preparations import Preparations
from libs.twophase.prepared import Prepared
from proto.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from services.inventory.adapters.choreography import Checkouts
from services.inventory.adapters.preparations import preparations
from services.inventory.adapters.queries import InventoryQueries
from services.inventory.adapters.units import CATALOGUE_TOPIC, ORDERS_TOPIC, SOURCE, PostgresUnits
from services.inventory.choreography import PART
from services.inventory.config import PREFIX, InventorySettings
from services.inventory.entrypoints.desk import Desk
from services.inventory.entrypoints.grpc import InventoryServicer
from services.inventory.entrypoints.holdings import DeskHoldings
from services.inventory.entrypoints.http import router
from services.inventory.handlers import Command, Done, InventoryHandlers, batch_key

MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class Inventory:
    """The service without its entrances and loops."""

    database: Database
    clock: SystemClock
    ids: Ids
    units: PostgresUnits
    prepared: Prepared
    preparations: Preparations[Command, Done]
    queries: InventoryQueries
    commands: Batcher[Command, Done]
    endings: Batcher[Command, Done]

    @classmethod
    def of(cls, database: Database, settings: InventorySettings) -> "Inventory":
        clock = SystemClock()
        ids = Ids(clock)
        units = PostgresUnits(database, clock, ids)
        prepared = Prepared(database, "inventory")
        execute = InventoryHandlers(units).execute
        in_flight_max = max(1, settings.database_pool_size // 2)
        return cls(
            database,
            clock,
            ids,
            units,
            prepared,
            preparations(prepared, units, in_flight_max),
            InventoryQueries(database, prepared),
            Batcher("inventory", execute, key=batch_key),
            Batcher("inventory endings", execute, key=batch_key),
        )


@asynccontextmanager
async def build(settings: InventorySettings) -> AsyncIterator[Entrances]:
    """Opens what the inventory service needs, wires it, and closes it again."""
    async with AsyncExitStack() as closing:
        database = Database.open(settings.database_url, settings.database_pool_size, "dockyard-inventory")
        closing.push_async_callback(database.close)
        await database.check_schema(MIGRATIONS)

        inventory = Inventory.of(database, settings)
        await inventory.prepared.check()
        lease_ms = int(settings.hold_lease_seconds * 1000)
        desk = Desk(inventory.commands, inventory.endings, inventory.preparations, inventory.queries, lease_ms)
        loops: list[Loop] = []
        if settings.redis_url:
            broker = RedisStreamsBroker.open(settings.redis_url)
            closing.push_async_callback(broker.close)
            loops += _messaging(inventory, broker, settings)
        if settings.coordinator_address:
            peer = channel(settings.coordinator_address)
            closing.push_async_callback(peer.close)
            loops += _inquiries(inventory, desk, peer, settings)

        server, serving = create_server(
            [inventory_pb2.DESCRIPTOR.services_by_name["InventoryService"].full_name],
            lambda server: inventory_pb2_grpc.add_InventoryServiceServicer_to_server(InventoryServicer(desk), server),
        )
        yield Entrances(
            app=create_app("inventory", "Products, their prices and their stock.", router(desk), [database.ping]),
            grpc_server=server,
            serving=serving,
            loops=loops,
            drain=[inventory.preparations.drain, inventory.commands.drain, inventory.endings.drain],
        )


def _messaging(inventory: Inventory, broker: RedisStreamsBroker, settings: InventorySettings) -> list[Loop]:
    """Publishes what happened, and hears what happened elsewhere."""
    database, clock, units = inventory.database, inventory.clock, inventory.units
    relay = Relay(database, broker, SOURCE, [CATALOGUE_TOPIC, CHECKOUTS_TOPIC], clock, inventory.ids)
    units.on_commit = relay.nudge
    checkouts = Consumer(
        database,
        broker,
        "inventory-checkouts",
        [ORDERS_TOPIC, CHECKOUTS_TOPIC],
        Checkouts(units, clock, inventory.ids).apply,
        clock,
        concerns=partial(concerns, PART),
        name=settings.instance,
        after_commit=relay.nudge,
    )
    return [relay.run, checkouts.run]


def _inquiries(inventory: Inventory, desk: Desk, peer: grpc.aio.Channel, settings: InventorySettings) -> list[Loop]:
    """Ask the coordinator about what was kept for too long."""
    prepared_too_long = partial(inventory.prepared.overdue, settings.prepared_patience_seconds)
    coordinator = RemoteCoordinator(ResolveCall(peer))
    return [
        Inquiry(DeskHoldings(desk, overdue), coordinator, inventory.clock, settings.inquiry_every_seconds).run
        for overdue in (prepared_too_long, inventory.queries.held_too_long)
    ]


if __name__ == "__main__":
    sys.exit(main(Process("inventory", PREFIX, InventorySettings, MIGRATIONS, build), sys.argv[1:]))
