"""The shipping service's process: the only file that knows all of it."""

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
from proto.shipping.v1 import shipping_pb2, shipping_pb2_grpc
from services.shipping.adapters.choreography import Checkouts
from services.shipping.adapters.preparations import preparations
from services.shipping.adapters.queries import ShippingQueries
from services.shipping.adapters.units import ORDER_CONFIRMED, ORDERS_TOPIC, SHIPMENTS_TOPIC, SOURCE, PostgresUnits
from services.shipping.choreography import PART
from services.shipping.config import PREFIX, ShippingSettings
from services.shipping.entrypoints.desk import Desk
from services.shipping.entrypoints.grpc import ShippingServicer
from services.shipping.entrypoints.holdings import DeskHoldings
from services.shipping.entrypoints.http import router
from services.shipping.handlers import Command, Done, ShippingHandlers, batch_key

MIGRATIONS = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class Shipping:
    """The service without its entrances and loops."""

    database: Database
    clock: SystemClock
    ids: Ids
    units: PostgresUnits
    prepared: Prepared
    preparations: Preparations[Command, Done]
    queries: ShippingQueries
    commands: Batcher[Command, Done]

    @classmethod
    def of(cls, database: Database, settings: ShippingSettings) -> "Shipping":
        clock = SystemClock()
        ids = Ids(clock)
        units = PostgresUnits(database, ids)
        prepared = Prepared(database, "shipping")
        in_flight_max = max(1, settings.database_pool_size // 2)
        return cls(
            database,
            clock,
            ids,
            units,
            prepared,
            preparations(prepared, units, settings.days_ahead, in_flight_max),
            ShippingQueries(database, prepared),
            Batcher("shipping", ShippingHandlers(units, settings.days_ahead).execute, key=batch_key),
        )


@asynccontextmanager
async def build(settings: ShippingSettings) -> AsyncIterator[Entrances]:
    """Opens what the shipping service needs, wires it, and closes it again."""
    async with AsyncExitStack() as closing:
        database = Database.open(settings.database_url, settings.database_pool_size, "dockyard-shipping")
        closing.push_async_callback(database.close)
        await database.check_schema(MIGRATIONS)

        shipping = Shipping.of(database, settings)
        await shipping.prepared.check()
        lease_ms = int(settings.hold_lease_seconds * 1000)
        desk = Desk(shipping.commands, shipping.preparations, shipping.queries, shipping.clock, lease_ms)
        loops: list[Loop] = []
        if settings.redis_url:
            broker = RedisStreamsBroker.open(settings.redis_url)
            closing.push_async_callback(broker.close)
            loops += _messaging(shipping, broker, settings)
        if settings.coordinator_address:
            peer = channel(settings.coordinator_address)
            closing.push_async_callback(peer.close)
            loops.append(_inquiry(shipping, desk, peer, settings).run)

        server, serving = create_server(
            [shipping_pb2.DESCRIPTOR.services_by_name["ShippingService"].full_name],
            lambda server: shipping_pb2_grpc.add_ShippingServiceServicer_to_server(ShippingServicer(desk), server),
        )
        yield Entrances(
            app=create_app("shipping", "Carriers, capacity and shipments.", router(desk), [database.ping]),
            grpc_server=server,
            serving=serving,
            loops=loops,
            drain=[shipping.preparations.drain, shipping.commands.drain],
        )


def _messaging(shipping: Shipping, broker: RedisStreamsBroker, settings: ShippingSettings) -> list[Loop]:
    """Publishes what happened, and hears what happened elsewhere."""
    database, clock, units = shipping.database, shipping.clock, shipping.units
    relay = Relay(database, broker, SOURCE, [SHIPMENTS_TOPIC, CHECKOUTS_TOPIC], clock, shipping.ids)
    units.on_commit = relay.nudge
    orders = Consumer(
        database,
        broker,
        "shipping-orders",
        [ORDERS_TOPIC],
        units.apply_orders,
        clock,
        concerns=lambda delivery: delivery.type == ORDER_CONFIRMED,
        name=settings.instance,
    )
    checkouts = Consumer(
        database,
        broker,
        "shipping-checkouts",
        [CHECKOUTS_TOPIC],
        Checkouts(units, settings.days_ahead, clock, shipping.ids).apply,
        clock,
        concerns=partial(concerns, PART),
        name=settings.instance,
        after_commit=relay.nudge,
    )
    return [relay.run, orders.run, checkouts.run]


def _inquiry(shipping: Shipping, desk: Desk, peer: grpc.aio.Channel, settings: ShippingSettings) -> Inquiry:
    """Asks the coordinator about what was kept for too long."""
    prepared_too_long = partial(shipping.prepared.overdue, settings.prepared_patience_seconds)
    holdings = DeskHoldings(desk, shipping.queries.held_too_long, prepared_too_long)
    coordinator = RemoteCoordinator(ResolveCall(peer))
    return Inquiry(holdings, coordinator, shipping.clock, settings.inquiry_every_seconds)


if __name__ == "__main__":
    sys.exit(main(Process("shipping", PREFIX, ShippingSettings, MIGRATIONS, build), sys.argv[1:]))
