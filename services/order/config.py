"""The order service's settings, read once at start from DOCKYARD_ORDER_* variables."""

from pydantic import Field

from libs.runtime.settings import ServiceSettings
from services.order.choreography import DEADLINE_SECONDS

PREFIX = "DOCKYARD_ORDER_"


class OrderSettings(ServiceSettings):
    """Complete or the process does not start."""

    inventory_address: str
    payment_address: str
    shipping_address: str
    # Bounds the memory of running sagas; the rest waits in the log.
    sagas_in_flight_max: int = Field(default=2000, ge=1, le=100_000)
    # Calls under way to one participant; commands that arrive meanwhile share the next call. With one at a time the
    # batches are largest: measured 20 % less CPU per order than with three, and lower latency.
    calls_in_flight_max: int = Field(default=1, ge=1, le=64)
    step_timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    # A choreographed checkout that stands still for so long is withdrawn; one that then stands still again is parked.
    choreography_deadline_seconds: float = Field(default=DEADLINE_SECONDS, gt=0, le=86_400)
    # Calls in a row, which lose money when anything goes wrong: for comparisons only.
    allow_naive: bool = False
