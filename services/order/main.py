"""The order service's process: the only file that knows all of it."""

import asyncio
import sys
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
from libs.runtime.serve import Service, main
from libs.saga.executor import Executor
from libs.saga.postgres_log import PostgresSagaLog
from proto.order.v1 import order_pb2, order_pb2_grpc
from services.order.adapters import participants, view
from services.order.adapters.local import OrderParticipant
from services.order.adapters.queries import OrderQueries
from services.order.adapters.subscriptions import (
    CATALOGUE_TOPIC,
    SHIPMENTS_TOPIC,
    CatalogueCopy,
    ShippedOrders,
)
from services.order.adapters.timeline import Timelines
from services.order.adapters.units import Committed, PostgresUnits
from services.order.adapters.watch import OrderWatch
from services.order.config import PREFIX, OrderSettings
from services.order.entrypoints.desk import Desk
from services.order.entrypoints.grpc import OrderServicer
from services.order.entrypoints.http import router
from services.order.handlers import Change, OrderHandlers, Placing, Written
from services.order.saga import SAGAS

MIGRATIONS = Path(__file__).parent / "migrations"
