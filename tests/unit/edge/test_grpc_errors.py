import base64
from collections.abc import Sequence
from urllib.parse import quote

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc.aio import AioRpcError, Metadata
from grpc_status import rpc_status

from libs.kernel.errors import (
    Conflict,
    DockyardError,
    InDoubt,
    Invalid,
    Mismatch,
    NotFound,
    Overloaded,
    Refused,
    StillRunning,
    Unavailable,
)
from libs.runtime.grpc_edge import CODES, STATUS_DETAILS_KEY, call_error, code_of, rich_status
from tests.unit.edge.tree import unmapped

PROMISED = {
    Invalid: code_pb2.INVALID_ARGUMENT,
    NotFound: code_pb2.NOT_FOUND,
    Conflict: code_pb2.FAILED_PRECONDITION,
    StillRunning: code_pb2.ABORTED,
    Mismatch: code_pb2.INVALID_ARGUMENT,
    Refused: code_pb2.FAILED_PRECONDITION,
    Unavailable: code_pb2.UNAVAILABLE,
    Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    InDoubt: code_pb2.DEADLINE_EXCEEDED,
    DockyardError: code_pb2.INTERNAL,
}
REFUSED_TO_CONNECT = (
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:9103: Failed to connect to remote host: "
    "Connection refused"
)


def received(status: status_pb2.Status) -> AioRpcError:
    """What a caller's grpc raises for a status that a peer sent."""
    sent = rpc_status.to_status(status)
    return AioRpcError(sent.code, Metadata(), Metadata(*sent.trailing_metadata), sent.details)


def bare(code: grpc.StatusCode, message: str = "", trailers: Sequence[tuple[str, bytes]] = ()) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(*trailers), message)


def test_every_error_has_its_grpc_code() -> None:
    assert unmapped(DockyardError, CODES) == set()
    assert PROMISED == CODES


@pytest.mark.parametrize("kind", [kind for kind in CODES if kind.__base__ is DockyardError])
def test_a_code_that_the_table_forgot_is_found(kind: type[DockyardError]) -> None:
    table = {other: code for other, code in CODES.items() if other is not kind}
    assert unmapped(DockyardError, table) == {kind}


@pytest.mark.parametrize("kind", [kind for kind in CODES if kind is not DockyardError])
def test_what_a_peer_raised_is_what_its_caller_raises(kind: type[DockyardError]) -> None:
    error = kind("the bank says no", code="card-declined", details={"bank": "harbour", "kind": "of blue"})
    restored = call_error(received(rich_status(error)))
    assert type(restored) is kind
    assert (restored.message, restored.code) == ("the bank says no", "card-declined")
    assert restored.details == {"bank": "harbour"}
    assert restored.retry_after_seconds is None


def test_an_error_of_a_service_arrives_as_what_it_derives_from() -> None:
    class CardDeclined(Refused):
        default_code = "card-declined"

    restored = call_error(received(rich_status(CardDeclined("no"))))
    assert type(restored) is Refused and restored.code == "card-declined"


def test_when_to_come_back_travels_along() -> None:
    restored = call_error(received(rich_status(Overloaded("busy", retry_after_seconds=1.25))))
    assert restored.retry_after_seconds == 1.25


def test_a_bug_of_the_peers_may_have_happened() -> None:
    restored = call_error(received(rich_status(DockyardError("see the log"))))
    assert type(restored) is InDoubt and restored.code == "internal"


def test_a_malformed_request_says_so_in_the_standard_way() -> None:
    details = rich_status(Invalid("quantity is 1 to 100")).details
    found = error_details_pb2.BadRequest()
    assert any(detail.Unpack(found) for detail in details)
    assert found.field_violations[0].description == "quantity is 1 to 100"
    assert not any(detail.Is(found.DESCRIPTOR) for detail in rich_status(Refused("no")).details)


@pytest.mark.parametrize("letter", ["x", "€", "😀", "\ud800"])
def test_no_message_is_too_long_for_the_headers_it_travels_in(letter: str) -> None:
    error = Invalid(letter * 100_000, details={"why": letter * 100_000})
    status = rich_status(error)
    as_headers = len(quote(status.message)) + len(base64.b64encode(status.SerializeToString()))
    assert as_headers < 8 * 1024
    assert type(call_error(received(rich_status(error)))) is Invalid


# What has no details of ours: a proxy, a mesh, grpc itself.


def test_a_call_that_never_left_did_not_happen() -> None:
    error = call_error(bare(grpc.StatusCode.UNAVAILABLE, REFUSED_TO_CONNECT))
    assert type(error) is Unavailable and error.code == "peer-unreachable"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Socket closed"),
        (grpc.StatusCode.UNAVAILABLE, "recvmsg:Connection reset by peer"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        (grpc.StatusCode.CANCELLED, "Cancelled"),
        (grpc.StatusCode.INTERNAL, "stream removed"),
        (grpc.StatusCode.UNKNOWN, "my own peer failed to connect"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max (5000000 vs. 4194304)"),
        (grpc.StatusCode.ABORTED, ""),
        (grpc.StatusCode.FAILED_PRECONDITION, ""),
    ],
)
def test_a_call_that_may_have_arrived_is_in_doubt(code: grpc.StatusCode, message: str) -> None:
    assert type(call_error(bare(code, message))) is InDoubt


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_bare_status_means_something(code: grpc.StatusCode) -> None:
    error = call_error(bare(code, "words"))
    assert type(error) in {Invalid, NotFound, Refused, InDoubt}
    assert error.code == f"grpc-{code.name.lower().replace('_', '-')}" and error.message == "words"


@pytest.mark.parametrize("trailer", [b"\xff\xff\xff", b""])
def test_details_that_cannot_be_read_are_none(trailer: bytes) -> None:
    error = call_error(bare(grpc.StatusCode.UNAVAILABLE, "words", [(STATUS_DETAILS_KEY, trailer)]))
    assert type(error) is InDoubt


def test_the_details_of_somebody_else_are_not_ours() -> None:
    status = rich_status(Refused("no"))
    info = error_details_pb2.ErrorInfo(reason="QUOTA", domain="googleapis.com", metadata={"kind": "Refused"})
    status.details[0].Pack(info)
    assert type(call_error(received(status))) is InDoubt


def test_a_class_that_a_newer_peer_has_is_in_doubt() -> None:
    status = rich_status(Refused("no", code="odd"))
    info = error_details_pb2.ErrorInfo(reason="odd", domain="dockyard", metadata={"kind": "Postponed"})
    status.details[0].Pack(info)
    restored = call_error(received(status))
    assert type(restored) is InDoubt and restored.code == "odd"


def test_the_code_of_an_error_is_that_of_its_nearest_class() -> None:
    class CardDeclined(Refused):
        pass

    assert code_of(CardDeclined("no")) == code_pb2.FAILED_PRECONDITION
