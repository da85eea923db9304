"""A trail as participants tell it: over gRPC as a message, over REST as a model."""

from datetime import datetime

from pydantic import BaseModel

from libs.tcc.trail import Trail
from proto.participant.v1 import participant_pb2


def trail_message(trail: Trail) -> participant_pb2.Trail:
    return participant_pb2.Trail(
        moments=[
            participant_pb2.Moment(at_unix_ms=_unix_ms(one.at), what=one.what, step=one.step, detail=one.detail)
            for one in trail.moments
        ],
        kept=[
            participant_pb2.Keeping(
                what=one.what,
                since_unix_ms=_unix_ms(one.since),
                until_unix_ms=0 if one.until is None else _unix_ms(one.until),
            )
            for one in trail.kept
        ],
    )


def _unix_ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


class MomentOut(BaseModel):
    at: datetime
    what: str
    step: str
    detail: str


class KeepingOut(BaseModel):
    """How long something was kept from others; `until` is null while it still is."""

    what: str
    since: datetime
    until: datetime | None


class TrailOut(BaseModel):
    transaction_id: str
    moments: list[MomentOut]
    kept: list[KeepingOut]
