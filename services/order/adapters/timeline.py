"""What happened to an order: its own events and its coordinator's log, in one line of time."""

from dataclasses import dataclass
from datetime import datetime

from libs.saga.log import SagaLog
from services.order.adapters.queries import OrderQueries
