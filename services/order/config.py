"""The order service's settings, read once at start from DOCKYARD_ORDER_* variables."""

from pydantic import Field

from libs.runtime.settings import ServiceSettings

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
