import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from libs.kernel.errors import Conflict, DockyardError, InDoubt, Invalid, Mismatch, NotFound, Refused, Unavailable
from libs.telemetry import names
from libs.telemetry.tracing import (
    configure_tracing,
    current_ids,
    current_traceparent,
    format_traceparent,
    is_recording,
    parse,
    span,
    start_root,
    use_provider,
)

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"
OTHER = "00-11112222333344445555666677778888-aaaabbbbccccdddd-01"


class Recorded:
    """The spans that ended, by name."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def __len__(self) -> int:
        return len(self._exporter.get_finished_spans())

    def __getitem__(self, name: str) -> ReadableSpan:
        (found,) = [one for one in self._exporter.get_finished_spans() if one.name == name]
        return found

    def edge(self, child: str) -> tuple[str, str]:
        """The trace of a span and its parent's id, in hexadecimal."""
        found = self[child]
        parent = found.parent
        return f"{found.context.trace_id:032x}", f"{parent.span_id:016x}" if parent else ""

    def id(self, name: str) -> str:
        return f"{self[name].context.span_id:016x}"


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    use_provider(provider)
    yield Recorded(exporter)
    use_provider(None)
    provider.shutdown()


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01x",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
    ],
)
def test_what_is_no_traceparent_is_ignored(traceparent: str) -> None:
    assert parse(traceparent) is None


@pytest.mark.parametrize("traceparent", [SAMPLED, UNSAMPLED])
def test_a_traceparent_says_which_span_of_which_trace(traceparent: str) -> None:
    context = parse(traceparent)
    assert context is not None and context.is_remote
    assert format_traceparent(context) == traceparent


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    context = parse(f"01-{TRACE}-{SPAN}-03-more")
    assert context is not None
    assert format_traceparent(context) == SAMPLED


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_every_traceparent_survives_the_way(trace_id: int, span_id: int, sampled: bool) -> None:
    traceparent = f"00-{trace_id:032x}-{span_id:016x}-{int(sampled):02x}"
    context = parse(traceparent)
    assert context is not None and format_traceparent(context) == traceparent


@given(st.text(max_size=80))
def test_no_header_breaks_a_request(header: str) -> None:
    with start_root(header):
        assert current_traceparent()


def test_outside_any_trace_there_is_nothing_to_send_along() -> None:
    assert current_traceparent() == ""
    assert current_ids() == ("", "")


# When nobody collects.


def test_without_a_collector_nothing_is_installed() -> None:
    stop = configure_tracing("order", None)
    assert not is_recording()
    stop()


def test_a_request_without_a_trace_gets_one_that_nobody_sampled() -> None:
    with start_root(None):
        first = current_traceparent()
    with start_root("nonsense"):
        second = current_traceparent()
    assert first.endswith("-00") and parse(first) is not None
    assert first.split("-")[1] != second.split("-")[1]
    assert current_traceparent() == ""


def test_a_callers_trace_goes_on_although_nobody_collects() -> None:
    with start_root(SAMPLED):
        assert current_traceparent() == SAMPLED
        assert current_ids() == (TRACE, SPAN)
        with span(names.COMMAND):
            assert current_traceparent() == SAMPLED


def test_a_command_keeps_its_own_trace_although_nobody_collects() -> None:
    with start_root(SAMPLED):
        with span(names.COMMAND, traceparent=OTHER) as opened:
            assert opened is None
            assert current_traceparent() == OTHER
        assert current_traceparent() == SAMPLED


def test_a_span_that_nobody_collects_makes_nothing() -> None:
    """What keeps it below a microsecond: every such span is the same object."""
    assert span(names.COMMAND) is span(names.BATCH, kind=SpanKind.CLIENT)


# When somebody does.


def test_a_span_is_the_child_of_the_one_around_it(recorded: Recorded) -> None:
    with start_root(None), span(names.HTTP_REQUEST, kind=SpanKind.SERVER), span(names.PLACE_ORDER):
        pass
    trace_id, parent = recorded.edge(names.PLACE_ORDER)
    assert parent == recorded.id(names.HTTP_REQUEST)
    assert recorded.edge(names.HTTP_REQUEST) == (trace_id, "")
    assert recorded[names.HTTP_REQUEST].kind is SpanKind.SERVER


def test_a_request_continues_its_callers_trace(recorded: Recorded) -> None:
    with start_root(SAMPLED), span(names.HTTP_REQUEST):
        assert current_ids() == (TRACE, recorded_id := current_traceparent().split("-")[2])
        assert recorded_id != SPAN
    assert recorded.edge(names.HTTP_REQUEST) == (TRACE, SPAN)


def test_a_command_continues_its_own_trace_not_its_batchs(recorded: Recorded) -> None:
    with start_root(SAMPLED), span(names.GRPC_SERVE):
        with span(names.COMMAND, traceparent=OTHER):
            pass
        with span(names.BATCH):
            pass
    assert recorded.edge(names.COMMAND) == (OTHER.split("-")[1], OTHER.split("-")[2])
    assert recorded.edge(names.BATCH) == (TRACE, recorded.id(names.GRPC_SERVE))


def test_a_command_without_a_readable_trace_stays_in_its_batchs(recorded: Recorded) -> None:
    with start_root(SAMPLED), span(names.COMMAND, traceparent="nonsense"):
        pass
    assert recorded.edge(names.COMMAND) == (TRACE, SPAN)


def test_a_batch_is_linked_to_those_in_it(recorded: Recorded) -> None:
    with span(names.BATCH, links=[SAMPLED, "nonsense", OTHER], attributes={names.BATCH_ROWS: 2}):
        pass
    assert [format_traceparent(link.context) for link in recorded[names.BATCH].links] == [SAMPLED, OTHER]
    assert recorded[names.BATCH].attributes == {names.BATCH_ROWS: 2}


def test_each_task_has_its_own_current_span(recorded: Recorded) -> None:
    async def one(traceparent: str) -> str:
        with start_root(traceparent), span(names.COMMAND):
            await asyncio.sleep(0)
            return current_ids()[0]

    async def both() -> tuple[str, str]:
        return await asyncio.gather(one(SAMPLED), one(OTHER))

    assert tuple(asyncio.run(both())) == (TRACE, OTHER.split("-")[1])


@pytest.mark.parametrize("error", [InDoubt("lost"), Unavailable("down"), DockyardError("bug"), ValueError("bug")])
def test_a_failure_is_seen_on_its_span(recorded: Recorded, error: Exception) -> None:
    with pytest.raises(type(error)), span(names.COMMAND):
        raise error
    ended = recorded[names.COMMAND]
    assert ended.status.status_code is StatusCode.ERROR
    assert ended.attributes == {names.ERROR_CODE: getattr(error, "code", "ValueError")}


@pytest.mark.parametrize("kind", [Refused, Conflict, Invalid, NotFound, Mismatch])
def test_a_refusal_is_an_answer_not_a_failure(recorded: Recorded, kind: type[DockyardError]) -> None:
    with pytest.raises(kind), span(names.COMMAND):
        raise kind("no", code="card-declined")
    ended = recorded[names.COMMAND]
    assert ended.status.status_code is StatusCode.UNSET
    assert ended.attributes == {names.ERROR_CODE: "card-declined"}


def test_to_be_cancelled_is_no_failure(recorded: Recorded) -> None:
    with pytest.raises(asyncio.CancelledError), span(names.COMMAND):
        raise asyncio.CancelledError
    assert recorded[names.COMMAND].status.status_code is StatusCode.UNSET
    assert current_traceparent() == ""


def test_a_trace_that_its_beginner_did_not_sample_is_passed_on_and_not_recorded(recorded: Recorded) -> None:
    with start_root(UNSAMPLED), span(names.HTTP_REQUEST) as opened:
        assert opened is None
        assert current_traceparent() == UNSAMPLED
        with span(names.COMMAND, traceparent=OTHER):
            pass
    assert len(recorded) == 1 and recorded.edge(names.COMMAND)[0] == OTHER.split("-")[1]
