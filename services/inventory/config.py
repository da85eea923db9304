"""Inventory's settings, read once at start from DOCKYARD_INVENTORY_* variables."""

from libs.runtime.settings import ServiceSettings

PREFIX = "DOCKYARD_INVENTORY_"


class InventorySettings(ServiceSettings):
    """Complete or the process does not start."""
