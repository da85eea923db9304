"""Payment's settings, read once at start from DOCKYARD_PAYMENT_* variables."""

from pydantic import Field

from libs.runtime.settings import ServiceSettings

PREFIX = "DOCKYARD_PAYMENT_"


class PaymentSettings(ServiceSettings):
    """Complete or the process does not start. Without a coordinator_address nobody is asked about authorisations."""

    psp_url: str = Field(pattern=r"^https?://")
    # How long one call to the card processor may take; beyond it nobody knows whether it charged.
    psp_timeout_seconds: float = Field(default=3.0, gt=0, le=60)
    # Calls to the card processor under way at once; the rest waits for a connection.
    psp_calls_in_flight_max: int = Field(default=64, ge=1, le=1000)
    # A slow card does not keep its batch: after this the command is answered "still running".
    batch_answer_within_seconds: float = Field(default=0.25, gt=0, le=10)
    # Payments that a dead process left behind are carried on when whoever began them had time to ask again, and
    # looked for so often.
    resume_after_seconds: float = Field(default=10.0, ge=0, le=3600)
    resume_every_seconds: float = Field(default=5.0, gt=0, le=600)
    coordinator_address: str = ""
    # An authorisation, and a prepared capture, that nobody ended after this makes us ask what became of its order; so
    # often we look for them. A command may name another lease for its authorisation.
    hold_lease_seconds: float = Field(default=60, gt=0, le=86_400)
    prepared_patience_seconds: float = Field(default=30, ge=0, le=86_400)
    inquiry_every_seconds: float = Field(default=1, gt=0, le=600)
