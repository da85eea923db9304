"""Shipping's settings, read once at start from DOCKYARD_SHIPPING_* variables."""

from pydantic import Field

from libs.runtime.settings import ServiceSettings

PREFIX = "DOCKYARD_SHIPPING_"


class ShippingSettings(ServiceSettings):
    """Complete or the process does not start."""

    # How many days from tomorrow on a parcel may be booked for.
    days_ahead: int = Field(default=7, ge=1, le=60)
