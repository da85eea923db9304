"""A payment as a row."""

from datetime import datetime

from libs.kernel.money import Money
from services.payment.domain import Payment, Status

COLUMNS = """
    payment_id, transaction_id, step, account_id, amount_minor, currency, card_token, status, created_at,
    decline_code, processor_reference, refund_wanted, announced
"""


def payment_of(  # noqa: PLR0913, PLR0917  (one for each column)
    payment_id: str,
    transaction_id: str,
    step: str,
    account_id: str,
    amount_minor: int,
    currency: str,
    card_token: str,
    status: str,
    created_at: datetime,
    decline_code: str,
    processor_reference: str,
    refund_wanted: bool,
    announced: bool,
) -> Payment:
    return Payment(
        payment_id,
        transaction_id,
        step,
        account_id,
        Money(amount_minor, currency),
        card_token,
        Status(status),
        created_at,
        decline_code,
        processor_reference,
        refund_wanted,
        announced,
    )
