"""Shipping's settings, read once at start from DOCKYARD_SHIPPING_* variables."""

from pydantic import Field

from libs.runtime.settings import ServiceSettings

PREFIX = "DOCKYARD_SHIPPING_"


class ShippingSettings(ServiceSettings):
    """Complete or the process does not start. Without a coordinator_address nobody is asked about overdue holds."""

    # How many days from tomorrow on a parcel may be booked for.
    days_ahead: int = Field(default=7, ge=1, le=60)
    coordinator_address: str = ""
    # A held place, and a prepared booking, that nobody ended after this makes us ask what became of its order; so
    # often we look for them. A command may name another lease for its place.
    hold_lease_seconds: float = Field(default=60, gt=0, le=86_400)
    prepared_patience_seconds: float = Field(default=30, ge=0, le=86_400)
    inquiry_every_seconds: float = Field(default=1, gt=0, le=600)
