"""The order service's process: the only file that knows all of it."""

import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from fastapi import APIRouter

from libs.choreography.events import CHECKOUTS_TOPIC
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
from libs.saga.calls import Participant
from libs.saga.executor import Executor
from libs.saga.postgres_log import PostgresSagaLog
from proto.coordination.v1 import coordination_pb2, coordination_pb2_grpc
from proto.order.v1 import operations_pb2, operations_pb2_grpc, order_pb2, order_pb2_grpc
from services.order.adapters import participants, view
from services.order.adapters.checkouts import TYPES, Checkouts
from services.order.adapters.codec import ORDERS_TOPIC, SOURCE
from services.order.adapters.coordinator import OrderCoordinator
from services.order.adapters.deadlines import Deadlines
from services.order.adapters.interventions import PostgresInterventions
from services.order.adapters.local import OrderParticipant
from services.order.adapters.naive import NaiveRunner
from services.order.adapters.operations import OperationsReader
from services.order.adapters.participants import BatchParticipant
from services.order.adapters.queries import OrderQueries
from services.order.adapters.subscriptions import CATALOGUE_TOPIC, SHIPMENTS_TOPIC, CatalogueCopy, ShippedOrders
from services.order.adapters.timeline import OrderTimelines
from services.order.adapters.trails import ParticipantTrails
from services.order.adapters.units import Committed, PostgresUnits
from services.order.adapters.watch import OrderWatch
from services.order.config import PREFIX, OrderSettings
from services.order.domain import NAIVE, Order
from services.order.entrypoints import http, http_operations
from services.order.entrypoints.desk import Desk
from services.order.entrypoints.grpc import OrderServicer
from services.order.entrypoints.grpc_coordinator import CoordinatorServicer
from services.order.entrypoints.grpc_operations import TransactionServicer
from services.order.handlers import Change, OrderHandlers, Placing, Written
from services.order.saga import INPUTS, SAGAS

MIGRATIONS = Path(__file__).parent / "migrations"
SERVICES = (
    order_pb2.DESCRIPTOR.services_by_name["OrderService"].full_name,
    operations_pb2.DESCRIPTOR.services_by_name["TransactionService"].full_name,
    coordination_pb2.DESCRIPTOR.services_by_name["CoordinatorService"].full_name,
)
KINDS = {"inventory": participants.inventory, "payment": participants.payment, "shipping": participants.shipping}


@dataclass(frozen=True, slots=True)
class Ordering:
    """The write side and the read side, without peers, entrances and loops."""

    database: Database
    clock: SystemClock
    ids: Ids
    units: PostgresUnits
    placing: Batcher[Placing, Written]
    changing: Batcher[Change, Written]
    projector: Projector
    queries: OrderQueries
    saga_log: PostgresSagaLog

    @classmethod
    def of(cls, database: Database, settings: OrderSettings) -> "Ordering":
        clock = SystemClock()
        ids = Ids(clock)
        units = PostgresUnits(database, clock, ids, choreography_seconds=settings.choreography_deadline_seconds)
        handlers = OrderHandlers(units)
        projector = Projector(database, view.VIEW_NAME, view.apply, clock)
        return cls(
            database,
            clock,
            ids,
            units,
            Batcher("place orders", handlers.place, key=lambda one: one.key),
            Batcher("change orders", handlers.change, key=lambda one: one.order_id),
            projector,
            OrderQueries(database, projector),
            PostgresSagaLog(database, INPUTS, clock),
        )


@dataclass(frozen=True, slots=True)
class Runners:
    """Who takes orders to their end: the coordinator of most styles, and the one that must fail."""

    remote: Sequence[BatchParticipant]
    executor: Executor
    naive: NaiveRunner

    @classmethod
    def of(cls, ordering: Ordering, peers: Mapping[str, grpc.aio.Channel], settings: OrderSettings) -> "Runners":
        clock = ordering.clock
        remote = [KINDS[name](peer, clock, settings.calls_in_flight_max) for name, peer in peers.items()]
        everybody: dict[str, Participant] = {
            "order": OrderParticipant(ordering.changing, clock),
            **{one.name: one for one in remote},
        }
        in_flight_max = settings.sagas_in_flight_max
        return cls(
            remote,
            Executor(SAGAS, everybody, ordering.saga_log, clock, in_flight_max=in_flight_max),
            NaiveRunner(everybody, ordering.changing, clock, in_flight_max),
        )

    def committed(self, done: Committed) -> None:
        """Begins what was placed, and stops what is not wanted any more."""
        self.executor.start(done.sagas)
        self.naive.start([order for order in done.orders if _is_new_naive(order)])
        for order in done.orders:
            if not order.decided and order.cancel_requested:
                self.executor.request_cancel(order.order_id, order.cancel_requested)
            elif not order.decided and order.withdrawn:
                self.executor.request_cancel(order.order_id, "the checkout was given up", order.withdrawn)


def _is_new_naive(order: Order) -> bool:
    return order.coordination == NAIVE and order.version == 1


@asynccontextmanager
async def build(settings: OrderSettings) -> AsyncIterator[Entrances]:
    """Opens what the order service needs, wires it, and closes it again."""
    async with AsyncExitStack() as closing:
        database = Database.open(settings.database_url, settings.database_pool_size, "dockyard-order")
        closing.push_async_callback(database.close)
        await database.check_schema(MIGRATIONS)

        ordering = Ordering.of(database, settings)
        addresses = (settings.inventory_address, settings.payment_address, settings.shipping_address)
        peers = {
            name: await closing.enter_async_context(channel(address))
            for name, address in zip(KINDS, addresses, strict=True)
        }
        runners = Runners.of(ordering, peers, settings)
        projector, clock = ordering.projector, ordering.clock
        deadlines = Deadlines(database, ordering.units, clock)
        loops: list[Loop] = [projector.run, runners.executor.run, deadlines.run]
        nudges = [projector.nudge]
        if settings.redis_url:
            broker = RedisStreamsBroker.open(settings.redis_url)
            closing.push_async_callback(broker.close)
            relay = Relay(database, broker, SOURCE, [ORDERS_TOPIC, CHECKOUTS_TOPIC], clock, ordering.ids)
            nudges.append(relay.nudge)
            loops += [relay.run, *_consumers(ordering, broker, settings)]

        watch = OrderWatch()
        ordering.units.on_commit = _teller(watch, runners, nudges)
        yield _entrances(ordering, runners, peers, watch, settings, loops)


def _entrances(
    ordering: Ordering,
    runners: Runners,
    peers: Mapping[str, grpc.aio.Channel],
    watch: OrderWatch,
    settings: OrderSettings,
    loops: Sequence[Loop],
) -> Entrances:
    """Both entrances, and how what they began is ended."""
    database, clock, queries = ordering.database, ordering.clock, ordering.queries
    desk = Desk(
        ordering.placing, ordering.changing, queries, watch, clock, ordering.ids, allow_naive=settings.allow_naive
    )
    timelines = OrderTimelines(database, ordering.saga_log, queries, ParticipantTrails(peers, clock), clock)
    coordinator = OrderCoordinator(queries, ordering.changing, clock)
    operations = OperationsReader(database, SAGAS, ordering.saga_log, queries, clock)
    interventions = PostgresInterventions(database, operations, ordering.units, runners.executor, clock)

    def add_services(server: grpc.aio.Server) -> None:
        order_pb2_grpc.add_OrderServiceServicer_to_server(OrderServicer(desk, queries, timelines), server)
        transactions = TransactionServicer(operations, interventions)
        operations_pb2_grpc.add_TransactionServiceServicer_to_server(transactions, server)
        coordination_pb2_grpc.add_CoordinatorServiceServicer_to_server(CoordinatorServicer(coordinator), server)

    server, serving = create_server(SERVICES, add_services)
    routes = APIRouter()
    routes.include_router(http.router(desk, queries, timelines))
    routes.include_router(http_operations.router(operations, interventions))
    return Entrances(
        app=create_app("order", "Takes orders and owns their life.", routes, [database.ping]),
        grpc_server=server,
        serving=serving,
        loops=loops,
        drain=[
            ordering.placing.drain,
            runners.naive.drain,
            ordering.changing.drain,
            runners.executor.drain,
            *(one.drain for one in runners.remote),
        ],
    )


def _teller(watch: OrderWatch, runners: Runners, nudges: Sequence[Callable[[], None]]) -> Callable[[Committed], None]:
    """Tells everybody in this process who acts on what was committed."""

    def committed(done: Committed) -> None:
        for order in done.orders:
            watch.committed(order)
        runners.committed(done)
        for nudge in nudges:
            nudge()

    return committed


def _consumers(ordering: Ordering, broker: RedisStreamsBroker, settings: OrderSettings) -> list[Loop]:
    database, clock, name = ordering.database, ordering.clock, settings.instance
    catalogue = Consumer(
        database, broker, "order-catalogue", [CATALOGUE_TOPIC], CatalogueCopy().apply, clock, name=name
    )
    shipped = ShippedOrders(ordering.units)
    shipments = Consumer(database, broker, "order-shipments", [SHIPMENTS_TOPIC], shipped.apply, clock, name=name)
    heard = Checkouts(ordering.units, clock)
    checkouts = Consumer(
        database,
        broker,
        "order-checkouts",
        [CHECKOUTS_TOPIC],
        heard.apply,
        clock,
        concerns=lambda delivery: delivery.type in TYPES,
        name=name,
        after_commit=heard.tell,
    )
    return [catalogue.run, shipments.run, checkouts.run]


if __name__ == "__main__":
    sys.exit(main(Process("order", PREFIX, OrderSettings, MIGRATIONS, build), sys.argv[1:]))
