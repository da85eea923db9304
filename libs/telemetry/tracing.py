"""Traces across every call, at next to no cost when nobody collects them.

With an OTLP endpoint the OpenTelemetry SDK records and exports. Without one no SDK is installed and a span costs half
a microsecond, but trace ids still exist and travel: a request that arrives without one is given a fresh, unsampled
W3C trace context, so the logs of all services name the same trace.
"""

import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from libs.kernel.errors import Conflict, DockyardError, Invalid, Mismatch, NotFound, Refused
from libs.telemetry import names

# A collector that is not there holds up the end of a process by no more than this (6.7 s with the SDK's default of 10).
EXPORT_SECONDS_MAX = 2.0
# W3C Trace Context §3.2: version 00 has exactly these parts, a later one may append others after a dash.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
# The peer did its work and said no: a failure neither of the call nor of anything it called.
_ANSWERS = (Invalid, NotFound, Conflict, Mismatch, Refused)

Attributes = Mapping[str, str] | Mapping[str, int] | Mapping[str, str | int]


class _State:
    """Whether an SDK is installed: asked on every hot path, so a plain attribute."""

    recording = False
    tracer: trace.Tracer = trace.NoOpTracer()


def configure_tracing(service: str, otlp_endpoint: str | None, sample_ratio: float = 1.0) -> Callable[[], None]:
    """Exports spans to `otlp_endpoint` (OTLP over gRPC, "http://host:4317"); returns what flushes and stops it."""
    if not otlp_endpoint:
        return lambda: None
    # Imported here: they cost a third of a second, which a process that exports nothing need not pay.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        # In containers every process is number 1 and the host's name is the replica's.
        resource=Resource.create(
            {names.SERVICE_NAME: service, names.SERVICE_INSTANCE: f"{platform.node()}-{os.getpid()}"}
        ),
    )
    exporter = OTLPSpanExporter(
        endpoint=otlp_endpoint, insecure=not otlp_endpoint.startswith("https://"), timeout=EXPORT_SECONDS_MAX
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    use_provider(provider)
    return provider.shutdown


def use_provider(provider: trace.TracerProvider | None) -> None:
    """Records spans with this provider; None stops recording."""
    _State.recording = provider is not None
    _State.tracer = provider.get_tracer("dockyard") if provider is not None else trace.NoOpTracer()


def is_recording() -> bool:
    """Whether spans go anywhere; where they do not, callers skip preparing attributes."""
    return _State.recording


class _Attached:
    """Makes a context current for a block."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: otel_context.Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = otel_context.attach(self._context)

    def __exit__(self, kind: object, error: object, where: object) -> None:
        otel_context.detach(self._token)


class _Spanning:
    """A span for a block: keeps the code of what the block raises; refusals are answers, not failures."""

    __slots__ = ("_span", "_token")

    def __init__(self, opened: Span) -> None:
        self._span = opened

    def __enter__(self) -> Span:
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        otel_context.detach(self._token)
        if error is not None:
            code = error.code if isinstance(error, DockyardError) else type(error).__name__
            self._span.set_attribute(names.ERROR_CODE, code)
            # To be cancelled is no failure either.
            if isinstance(error, Exception) and not isinstance(error, _ANSWERS):
                self._span.set_status(Status(StatusCode.ERROR, str(error)))
        self._span.end()


def start_root(traceparent: str | None) -> AbstractContextManager[object]:
    """Enters a request: continues its caller's trace, or begins one that nobody sampled."""
    remote = parse(traceparent) if traceparent else None
    if remote is None and _State.recording:
        return _Attached(otel_context.Context())
    return _Attached(trace.set_span_in_context(NonRecordingSpan(remote or _fresh()), otel_context.Context()))


def span(
    name: str,
    *,
    traceparent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Attributes | None = None,
    links: Sequence[str] = (),
) -> AbstractContextManager[Span | None]:
    """A span for a block; its parent is `traceparent` if given, else the current span."""
    if not _State.recording:
        return _continued(parse(traceparent)) if traceparent else _NOTHING
    remote = parse(traceparent) if traceparent else None
    parent = remote or trace.get_current_span().get_span_context()
    if parent.is_valid and not parent.trace_flags.sampled:
        # Whoever began this trace decided that nobody keeps it: not worth asking the SDK again.
        return _continued(remote)
    context = trace.set_span_in_context(NonRecordingSpan(remote), otel_context.Context()) if remote else None
    linked = [Link(one) for one in map(parse, links) if one is not None]
    return _Spanning(_State.tracer.start_span(name, context, kind, attributes, linked))


def current_traceparent() -> str:
    """The W3C traceparent to send along; "" outside any trace."""
    context = trace.get_current_span().get_span_context()
    return format_traceparent(context) if context.is_valid else ""


def current_ids() -> tuple[str, str]:
    """Trace id and span id as hexadecimal; empty outside any trace."""
    context = trace.get_current_span().get_span_context()
    return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else ("", "")


def format_traceparent(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"


def parse(traceparent: str | None) -> SpanContext | None:
    """The remote span a traceparent names; None when it is not one."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "00" and more:
        return None
    context = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
    return context if context.is_valid else None


def _continued(remote: SpanContext | None) -> AbstractContextManager[None]:
    return _Attached(trace.set_span_in_context(NonRecordingSpan(remote))) if remote else _NOTHING


def _fresh() -> SpanContext:
    random = os.urandom(24)
    return SpanContext(int.from_bytes(random[:16]), int.from_bytes(random[16:]), False, TraceFlags(0))


_NOTHING: AbstractContextManager[None] = nullcontext()
