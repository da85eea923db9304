"""Inventory's settings, read once at start from DOCKYARD_INVENTORY_* variables."""

from pydantic import Field

from libs.runtime.settings import ServiceSettings

PREFIX = "DOCKYARD_INVENTORY_"


class InventorySettings(ServiceSettings):
    """Complete or the process does not start. Without a coordinator_address nobody is asked about overdue holds."""

    coordinator_address: str = ""
    # Held stock, and a prepared deduction, that nobody ended after this makes us ask what became of its order; so often
    # we look for them. A command may name another lease for its stock.
    hold_lease_seconds: float = Field(default=60, gt=0, le=86_400)
    prepared_patience_seconds: float = Field(default=30, ge=0, le=86_400)
    inquiry_every_seconds: float = Field(default=1, gt=0, le=600)
