"""What happened to an order: its own events and its coordinators' logs, in one line of time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from libs.eventsourcing.store import Recorded
from libs.runtime.database import Database
from libs.saga.log import SagaLog
from libs.saga.timeline import describe
from services.order.adapters.queries import OrderQueries
from services.order.saga import SAGAS

# The saga that fulfils an order and those that were asked to take it back.
SAGAS_OF_ORDER = text(
    "SELECT saga_id FROM sagas WHERE saga_id = :order_id OR saga_id LIKE :order_id || '/cancel/%' ORDER BY started_at"
)
