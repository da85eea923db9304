"""Runs sagas: asks the machine what is next, does it, notes what came of it; kill it anywhere and it carries on.

Three moments are durable before the saga goes on: started (in its caller's commit), decided to undo or to wait for an
operator, and ended. What each step answered is noted lazily: a participant replays its answer when asked again.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from libs.kernel.errors import DockyardError, InDoubt, Overloaded, Refused, Unavailable
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock
from libs.runtime.failpoints import declare, failpoint
from libs.saga.definition import Command, MakeCommand, Saga, Step
from libs.saga.entries import (
    AnyEntry,
    CancelRequested,
    Ended,
    FaultKind,
    Parked,
    Started,
    StepDone,
    StepFailed,
    StepRefused,
    TakenUp,
    UndoDone,
    UndoFailed,
)
from libs.saga.log import PARKED, Hold, Instance, Line, SagaLog, Tail
from libs.saga.machine import Action, Do, Record, State, Undo, apply, fold, next_actions
from libs.telemetry import metrics, names
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import span, start_root

# Sagas run at once; the rest waits in the log. Bounds memory at about 10 KiB each.
IN_FLIGHT_MAX = 2000
# How often the log is searched for sagas nobody runs, and how many are taken up at a time.
SWEEP_SECONDS = 2.0
SWEEP_ROWS_MAX = 500
FAILED_SECONDS = 1.0
# What a step answered is written down together with what follows it, and at the latest after this long: a saga that
# ends sooner writes its log once.
FLUSH_SECONDS = 0.5
LOG_ROWS_MAX = 256

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The circumstances of one try. `undo_code` and `undo_message` say why an undo happens."""

    saga_id: str
    step: str
    operation: str
    attempt: int
    deadline_unix_ms: int
    undo_code: str = ""
    undo_message: str = ""


class Participant(Protocol):
    async def execute(self, command: Command, context: CommandContext) -> Any:
        """Has the effect at most once, whatever is repeated, and answers something JSON can hold.

        Raises Refused (the answer is no), Unavailable (nothing happened), InDoubt (it may have happened).
        """
        ...


@dataclass(slots=True)
class _Run:
    """A saga being run: its state, and the lines that are not durable yet."""

    instance: Instance
    saga: Saga
    state: State
    seq: int
    unsaved: list[Line] = field(default_factory=list)
    queued: bool = False


Hook = Callable[[Instance, State], None]


def failpoints_of(saga: Saga) -> tuple[str, ...]:
    """Every place where a run of this saga can be killed: around each call and each durable write."""
    calls = [
        f"{step.name}.{operation}"
        for step in saga.steps
        for operation in ("do", "undo")
        if operation == "do" or step.undo
    ]
    around = tuple(f"saga.{moment}-call:{call}" for call in calls for moment in ("before", "after"))
    return (*around, *(f"saga.{moment}-write:{what}" for what in WRITES for moment in ("before", "after")))


WRITES = ("lines", "UndoDecided", "Ended", "Parked")


class Executor:
    """Runs the sagas of one log; `run` until cancelled, in as many processes as you like: one of them has the right."""

    def __init__(
        self,
        sagas: Mapping[str, Saga],
        participants: Mapping[str, Participant],
        saga_log: SagaLog,
        clock: Clock,
        *,
        in_flight_max: int = IN_FLIGHT_MAX,
        on_rest: Hook = lambda instance, state: None,
    ) -> None:
        for saga in sagas.values():
            declare(*failpoints_of(saga))
        self._sagas = sagas
        self._participants = participants
        self._log = saga_log
        self._clock = clock
        self._in_flight_max = in_flight_max
        self._on_rest = on_rest
        self._runs: dict[str, _Run] = {}
        self._group: asyncio.TaskGroup | None = None
        self._swept = ""
        self._writer: Batcher[_Run, None] = Batcher(
            "saga log",
            self._write,
            batch_rows_max=LOG_ROWS_MAX,
            queue_rows_max=4 * in_flight_max,
            key=lambda run: run.instance.saga_id,
        )

    def start(self, instances: Sequence[Instance]) -> None:
        """Runs sagas whose start is durable; those there is no room for are found by the sweep."""
        for instance in instances:
            self._take_up(instance, ())

    def request_cancel(self, saga_id: str, reason: str) -> None:
        """Tells a running saga that its customer changed their mind; it stops at the next step before the pivot."""
        run = self._runs.get(saga_id)
        if run is not None:
            self._note(run, CancelRequested(reason))

    async def run(self) -> None:
        while True:
            try:
                async with self._log.exclusive() as hold:
                    await self._run_while(hold)
            except* (Unavailable, InDoubt) as errors:
                log.warning("sagas wait", extra={"error": str(errors.exceptions[0])})
            await self._clock.sleep(FAILED_SECONDS)

    async def drain(self) -> None:
        """Writes down what is noted; what still runs is durable enough to be carried on."""
        await self._writer.drain()

    async def _run_while(self, hold: Hold) -> None:
        """Runs sagas for as long as the right to do so is held."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._swept = ""
                group.create_task(self._flush())
                while True:
                    await hold.check()
                    await self._sweep()
                    await self._clock.sleep(SWEEP_SECONDS)
        finally:
            self._group = None
            self._runs.clear()

    async def _flush(self) -> None:
        """Writes down now and then what the slower sagas noted."""
        while True:
            await self._clock.sleep(FLUSH_SECONDS)
            for run in self._runs.values():
                if run.unsaved:
                    self._save_lazily(run)

    async def _sweep(self) -> None:
        """Takes up unfinished sagas that nobody runs: after a crash, from other replicas, or left for lack of room."""
        room = min(self._in_flight_max - len(self._runs), SWEEP_ROWS_MAX)
        if room <= 0:
            return
        found = await self._log.unfinished(self._swept, room)
        for remembered in found:
            self._take_up(remembered.instance, remembered.lines)
        self._swept = found[-1].instance.saga_id if len(found) == room else ""

    def _take_up(self, instance: Instance, lines: Sequence[Line]) -> None:
        if self._group is None or instance.saga_id in self._runs or len(self._runs) >= self._in_flight_max:
            return
        run = _Run(instance, self._sagas[instance.saga], fold(line.entry for line in lines), len(lines))
        if lines:
            run.seq = lines[-1].seq
            log.info("saga taken up", extra={"saga_id": instance.saga_id, "saga": instance.saga, "lines": len(lines)})
        else:
            self._note(run, Started())
        self._runs[instance.saga_id] = run
        metrics.SAGAS_RUNNING.set(len(self._runs))
        self._group.create_task(self._drive(run))

    async def _drive(self, run: _Run) -> None:
        """Takes one saga to its rest. A database that fails leaves it to the next sweep."""
        try:
            with start_root(run.instance.traceparent):
                while actions := next_actions(run.saga, run.state):
                    await self._act(run, actions)
        except DockyardError as error:
            log.warning("saga interrupted", extra={"saga_id": run.instance.saga_id, "error": error.message})
        finally:
            self._runs.pop(run.instance.saga_id, None)
            metrics.SAGAS_RUNNING.set(len(self._runs))

    async def _act(self, run: _Run, actions: Sequence[Action]) -> None:
        first = actions[0]
        if isinstance(first, Record):
            await self._record(run, first)
        elif len(actions) == 1:
            self._note(run, await self._try(run, first))
        else:
            async with asyncio.TaskGroup() as group:
                tries = [group.create_task(self._try(run, action)) for action in actions]
            for one in tries:
                self._note(run, one.result())

    async def _record(self, run: _Run, action: Record) -> None:
        what = type(action.entry).__name__
        self._note(run, action.entry)
        failpoint(f"saga.before-write:{what}")
        await self._writer.submit(run)
        failpoint(f"saga.after-write:{what}")
        if isinstance(action.entry, Ended | Parked):
            self._at_rest(run)

    def _at_rest(self, run: _Run) -> None:
        state = run.state
        extra = {"saga_id": run.instance.saga_id, "saga": run.saga.name, "outcome": state.outcome or PARKED}
        if state.undo is not None:
            extra |= {"code": state.undo.code, "step": state.undo.step}
        if state.parked is not None:
            log.error("saga parked", extra={**extra, "reason": state.parked})
        else:
            log.info("saga ended", extra=extra)
        metrics.SAGAS_ENDED.labels(run.saga.name, state.outcome or PARKED).inc()
        self._on_rest(run.instance, state)

    async def _try(self, run: _Run, action: Action) -> AnyEntry:
        """Makes one try and says what came of it."""
        assert isinstance(action, Do | Undo)
        if action.delay_seconds > 0:
            await self._clock.sleep(action.delay_seconds)
        step = run.saga.step(action.step)
        if isinstance(action, Do):
            return await self._try_do(run, step, action)
        return await self._try_undo(run, step, action)

    async def _try_do(self, run: _Run, step: Step, action: Do) -> AnyEntry:
        context = self._context(run, step, "do", action.attempt)
        try:
            result = await self._call(run, step, step.do, context, names.SAGA_DO)
        except Refused as refusal:
            return StepRefused(step.name, refusal.code, refusal.message)
        except Unavailable as error:
            return StepFailed(step.name, action.attempt, FaultKind.UNAVAILABLE, error.message)
        except DockyardError as error:
            # Whatever else a participant says leaves open what it did.
            return StepFailed(step.name, action.attempt, FaultKind.IN_DOUBT, f"{error.code}: {error.message}")
        return StepDone(step.name, result)

    async def _try_undo(self, run: _Run, step: Step, action: Undo) -> AnyEntry:
        assert step.undo is not None
        context = self._context(run, step, "undo", action.attempt)
        try:
            result = await self._call(run, step, step.undo, context, names.SAGA_UNDO)
        except DockyardError as error:
            return UndoFailed(step.name, action.attempt, f"{error.code}: {error.message}")
        return UndoDone(step.name, result)

    async def _call(self, run: _Run, step: Step, make: MakeCommand, context: CommandContext, span_name: str) -> Any:
        command = make(run.instance.input, run.state.results)
        place = f"{step.name}.{context.operation}"
        failpoint(f"saga.before-call:{place}")
        attributes: dict[str, str | int] = {
            names.SAGA_ID: context.saga_id,
            names.SAGA_STEP: step.name,
            names.SAGA_ATTEMPT: context.attempt,
        }
        with span(span_name, attributes=attributes):
            try:
                async with asyncio.timeout(step.timeout_seconds):
                    result = await self._participants[command.participant].execute(command, context)
            except TimeoutError:
                raise InDoubt(f"no answer within {step.timeout_seconds} s", code="timeout") from None
        failpoint(f"saga.after-call:{place}")
        return result

    def _context(self, run: _Run, step: Step, operation: str, attempt: int) -> CommandContext:
        deadline = self._clock.unix_ms() + int(step.timeout_seconds * 1000)
        undo = run.state.undo
        return CommandContext(
            run.instance.saga_id,
            step.name,
            operation,
            attempt,
            deadline,
            undo.code if undo else "",
            undo.message if undo else "",
        )

    def _note(self, run: _Run, entry: AnyEntry) -> None:
        run.state = apply(run.state, entry)
        run.seq += 1
        run.unsaved.append(Line(run.seq, self._clock.now(), entry))

    def _save_lazily(self, run: _Run) -> None:
        """Queues the run once: whatever it noted by the time its batch goes is written together."""
        if run.queued:
            return
        run.queued = True
        try:
            self._writer.offer(run)
        except (Overloaded, Unavailable):
            run.queued = False  # the next durable write takes these lines along

    async def _write(self, runs: Sequence[_Run]) -> Sequence[None]:
        written = []
        for run in runs:
            run.queued = False
            if run.unsaved:
                written.append((run, Tail(run.instance.saga_id, tuple(run.unsaved))))
        failpoint("saga.before-write:lines")
        await self._log.write([tail for _, tail in written])
        failpoint("saga.after-write:lines")
        for run, tail in written:
            del run.unsaved[: len(tail.lines)]
        return [None] * len(runs)
