"""A shipment as a row."""

from datetime import date, datetime

from services.shipping.domain import Place, Status
from services.shipping.ports import Shipment

COLUMNS = """
    shipment_id, transaction_id, carrier_id, zone, ship_date, parcels, address::text, status, label, booked_at
"""


def shipment_of(  # noqa: PLR0913, PLR0917  (one for each column)
    shipment_id: str,
    transaction_id: str,
    carrier_id: str,
    zone: str,
    ship_date: date,
    parcels: int,
    address: str,
    status: str,
    label: str,
    booked_at: datetime,
) -> Shipment:
    place = Place(carrier_id, zone, ship_date, parcels)
    return Shipment(shipment_id, transaction_id, place, address, Status(status), label, booked_at)
