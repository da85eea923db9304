"""The gRPC entrance every service shares: errors as google.rpc.Status, traces, reflection, health; and the way out."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from opentelemetry.trace import SpanKind

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
from libs.telemetry import metrics, names
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import current_ids, current_traceparent, span, start_root

ERROR_DOMAIN = "dockyard"
# A batch of 128 commands of 100 lines is about half a megabyte.
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
KEEPALIVE_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 5_000
RECONNECT_MS_MAX = 500
# An error travels in headers, its message three times over and partly as %XX; peers drop headers of more than 8 KiB.
ERROR_TEXT_BYTES_MAX = 500
STATUS_DETAILS_KEY = "grpc-status-details-bin"

log = get_logger(__name__)

CODES: Mapping[type[DockyardError], int] = {
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

# How an error of ours is recognised on the other side. A bug of the peer's is not among them: it may have happened.
_CLASSES: Mapping[str, type[DockyardError]] = {kind.__name__: kind for kind in CODES if kind is not DockyardError}

# What a status without our details means: only these say for certain that nothing happened. (RESOURCE_EXHAUSTED does
# not: an answer that was too large to receive has it as well.)
_FOREIGN: Mapping[grpc.StatusCode, type[DockyardError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: Invalid,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNIMPLEMENTED: Invalid,
    grpc.StatusCode.PERMISSION_DENIED: Refused,
    grpc.StatusCode.UNAUTHENTICATED: Refused,
}

# grpc's own words for a call that was never sent.
_NEVER_SENT = ("failed to connect", "connection refused", "dns resolution failed", "no route to host")

# The key of an ErrorInfo's metadata under which the class of an error travels.
KIND = "kind"

M = TypeVar("M", bound=Message)
R = TypeVar("R")

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Context], Awaitable[Any]]


class _Entrance(grpc.aio.ServerInterceptor):
    """Around every unary call: its trace, its metrics, and its error as a rich status."""

    def __init__(self) -> None:
        # One for each method we have; made once, for they are asked for at every call.
        self._guarded: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        known = self._guarded.get(details.method)
        if known is not None:
            return known
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        guarded = grpc.unary_unary_rpc_method_handler(
            _guarded(details.method.removeprefix("/"), handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        self._guarded[details.method] = guarded
        return guarded


def _guarded(method: str, behaviour: Method) -> Method:
    attributes = {names.RPC_METHOD: method}
    seconds = metrics.GRPC_SECONDS.labels(method)

    async def guarded(request: Any, context: Context) -> Any:
        with seconds.time(), start_root(_traceparent(context)):
            try:
                with span(names.GRPC_SERVE, kind=SpanKind.SERVER, attributes=attributes):
                    response = await behaviour(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  (the outermost loop of a call: nothing internal leaves)
                await _abort(method, context, error)
        metrics.GRPC_CALLS.labels(method, "OK").inc()
        return response

    return guarded


def _traceparent(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent":
            return str(value)
    return ""


async def _abort(method: str, context: Context, error: Exception) -> NoReturn:
    """Ends the call with the error; what is a bug of ours is logged, once, and told as no more than that."""
    if not isinstance(error, DockyardError) or code_of(error) == code_pb2.INTERNAL:
        log.error("call failed", exc_info=error, extra={"method": method})
        error = DockyardError("the error is logged under this trace id", details={"trace_id": current_ids()[0]})
    status = rich_status(error)
    metrics.GRPC_CALLS.labels(method, code_pb2.Code.Name(status.code)).inc()
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("a call goes on after its end")


def code_of(error: DockyardError) -> int:
    """The google.rpc code of an error, by the nearest class in the table."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def rich_status(error: DockyardError) -> status_pb2.Status:
    """The error with everything it says, as google.rpc.Status with ErrorInfo, RetryInfo and BadRequest."""
    kind = next(kind for kind in type(error).__mro__ if kind in CODES)
    message = _shortened(error.message)
    metadata = {key: _shortened(value) for key, value in error.details.items()}
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=error.code, domain=ERROR_DOMAIN, metadata={**metadata, KIND: kind.__name__})
    ]
    if error.retry_after_seconds:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, Invalid):
        violation = error_details_pb2.BadRequest.FieldViolation(description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    return status_pb2.Status(code=code_of(error), message=message, details=[_packed(one) for one in details])


def _shortened(text: str) -> str:
    return text.encode(errors="replace")[:ERROR_TEXT_BYTES_MAX].decode(errors="ignore")


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def call_error(error: grpc.aio.AioRpcError) -> DockyardError:
    """What a failed call means to its caller: the peer's own error, or the safest reading of a bare status."""
    message = error.details() or error.code().name
    details = _details(error)
    info = _unpacked(details, error_details_pb2.ErrorInfo())
    if info is not None and info.domain == ERROR_DOMAIN:
        kind = _CLASSES.get(info.metadata.get(KIND, ""), InDoubt)
        retry = _unpacked(details, error_details_pb2.RetryInfo())
        return kind(
            message,
            code=info.reason,
            details={key: value for key, value in info.metadata.items() if key != KIND},
            retry_after_seconds=retry.retry_delay.ToMilliseconds() / 1000 if retry is not None else None,
        )
    if error.code() is grpc.StatusCode.UNAVAILABLE and any(words in message.lower() for words in _NEVER_SENT):
        return Unavailable(message, code="peer-unreachable")
    return _FOREIGN.get(error.code(), InDoubt)(message, code=f"grpc-{error.code().name.lower().replace('_', '-')}")


def _details(error: grpc.aio.AioRpcError) -> Sequence[any_pb2.Any]:
    """What a google.rpc.Status in the trailers carries; nothing if there is none, or none that can be read."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            with suppress(DecodeError):
                return list(status_pb2.Status.FromString(value).details)
    return ()


def _unpacked(details: Sequence[any_pb2.Any], wanted: M) -> M | None:
    """The first detail of this type."""
    for detail in details:
        with suppress(DecodeError):
            if detail.Unpack(wanted):
                return wanted
    return None


def create_server(
    service_names: Sequence[str], add_servicers: Callable[[grpc.aio.Server], None]
) -> tuple[grpc.aio.Server, Callable[[bool], Awaitable[None]]]:
    """A server with reflection and health; the second value tells the health service whether we serve."""
    server = grpc.aio.server(
        interceptors=[_Entrance()],
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            # A second process on our port would take half of our calls.
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
        ],
    )
    add_servicers(server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    listed = (*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(listed, server)

    async def serving(yes: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if yes else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *service_names):
            await health_servicer.set(name, status)

    return server, serving


def channel(address: str) -> grpc.aio.Channel:
    """A channel that notices a dead peer and comes back soon after a restart."""
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
            ("grpc.min_reconnect_backoff_ms", 100),
        ],
    )


async def call(method: Callable[..., Awaitable[R]], request: Any, seconds: float) -> R:
    """One unary call with a deadline and our trace. Raises the peer's error, Unavailable or InDoubt."""
    with span(names.GRPC_CALL, kind=SpanKind.CLIENT):
        traceparent = current_traceparent()
        metadata = (("traceparent", traceparent),) if traceparent else ()
        try:
            return await method(request, timeout=seconds, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise call_error(error) from error
