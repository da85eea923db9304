"""The simulated card processor's settings, read once at start from DOCKYARD_PSP_* variables."""

from pydantic import Field

from libs.runtime.settings import ServiceSettings

PREFIX = "DOCKYARD_PSP_"


class PspSettings(ServiceSettings):
    """Complete or the process does not start."""

    # How long tok_slow lets everybody wait.
    slow_seconds: float = Field(default=1.5, ge=0, le=60)
