"""Runs sagas: asks the machine what is next, does it, notes what came of it; kill it anywhere and it carries on.

Four moments are durable before the saga goes on: started (in its caller's commit), the pivot decided, going back or
waiting for an operator decided, and ended. What each step answered is noted lazily: a participant replays its answer
when asked again. The log lets one writer add to a saga; a run that finds another's line in its place stops.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field

from libs.kernel.errors import Conflict, DockyardError, InDoubt, Overloaded, Unavailable
from libs.runtime.batching import Batcher
from libs.runtime.clock import Clock, Ids
from libs.runtime.failpoints import declare, failpoint
from libs.saga.calls import Caller, Participant, call_failpoints
from libs.saga.definition import Saga
from libs.saga.entries import CANCEL_REQUESTED, AnyEntry, CancelRequested, Ended, Parked, Started, TakenUp
from libs.saga.log import ENDED, PARKED, Hold, Instance, Line, SagaLog, Tail
from libs.saga.machine import Action, Do, Record, State, Undo, apply, fold, next_actions
from libs.telemetry import metrics
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import start_root

# Sagas run at once; the rest waits in the log. Bounds memory at about 10 KiB each.
IN_FLIGHT_MAX = 2000
# How often the log is searched for sagas nobody runs, and how many are taken up at a time.
SWEEP_SECONDS = 2.0
SWEEP_ROWS_MAX = 500
FAILED_SECONDS = 1.0
# What a step answered is written down together with what follows it, and at the latest after this long: a saga that
# ends sooner writes its log twice, for the pivot and at its end.
FLUSH_SECONDS = 0.5
LOG_ROWS_MAX = 256

log = get_logger(__name__)


@dataclass(slots=True)
class _Run:
    """A saga being run: its state, and the lines that are not durable yet.

    `taken_up`: somebody else may have run it before. `seq` is the last line's. `stale`: the log is not this run's to
    write any more.
    """

    instance: Instance
    saga: Saga
    taken_up: bool
    state: State = field(default_factory=State)
    seq: int = 0
    unsaved: list[Line] = field(default_factory=list)
    queued: bool = False
    stale: bool = False


# What is written while the saga waits for it; "lines" is every batch of lines, whatever is in it.
WRITES = ("lines", "TakenUp", "PivotDecided", "UndoDecided", "Parked", "Ended")

Hook = Callable[[Instance, State], None]


def failpoints_of(saga: Saga) -> tuple[str, ...]:
    """Every place where a run of this saga can be killed: around each call and each durable write."""
    writes = tuple(f"saga.{moment}-write:{what}" for what in WRITES for moment in ("before", "after"))
    return (*call_failpoints(saga), *writes)


class Executor:
    """Runs the sagas of one log; `run` until cancelled, in as many processes as you like: one of them has the right.

    `sagas` holds every definition, older versions too while sagas of them may be unfinished; `on_rest` hears of each
    saga that ended or was parked, when that is durable.
    """

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
        self._sagas = {(saga.name, saga.version): saga for saga in sagas.values()}
        self._turns = {
            saga.name: asyncio.Semaphore(saga.at_once_max) for saga in sagas.values() if saga.at_once_max is not None
        }
        self._caller = Caller(participants, clock)
        self._log = saga_log
        self._clock = clock
        self._name = Ids(clock).new("run")
        self._in_flight_max = in_flight_max
        self._on_rest = on_rest
        self._runs: dict[str, _Run] = {}
        self._resting = 0
        self._group: asyncio.TaskGroup | None = None
        self._unknown: set[tuple[str, int]] = set()
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
            self._take_up(instance, (), taken_up=False)

    def request_cancel(self, saga_id: str, reason: str, code: str = CANCEL_REQUESTED) -> None:
        """Tells a running saga that it is not wanted any more; it goes back unless the pivot may be done."""
        run = self._runs.get(saga_id)
        if run is not None and run.state.outcome is None:
            self._note(run, CancelRequested(reason, code))

    async def take_up(self, saga_id: str) -> None:
        """Carries on with a saga that an operator resumed, without waiting for the sweep, if this process may."""
        if self._group is not None:
            await self._take_up_idle([saga_id])

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
                group.create_task(self._flush_for_ever())
                while True:
                    await hold.check()
                    await self._sweep()
                    await self._clock.sleep(SWEEP_SECONDS)
        finally:
            self._group = None
            self._runs.clear()

    async def _flush_for_ever(self) -> None:
        """Keeps the log fresh for its readers while steps take their time."""
        while True:
            await self._clock.sleep(FLUSH_SECONDS)
            for run in self._runs.values():
                if run.unsaved:
                    self._save_lazily(run)

    async def _sweep(self) -> None:
        """Takes up unfinished sagas that nobody runs: after a crash, from other replicas, or left for lack of room."""
        after: str | None = ""
        while after is not None and len(self._runs) < self._in_flight_max:
            after = await self._sweep_page(after)

    async def _sweep_page(self, after: str) -> str | None:
        """Takes up to a page of them after this id; the id to go on from, None when there are no more."""
        ids = await self._log.unfinished(after, SWEEP_ROWS_MAX)
        await self._take_up_idle(ids)
        return ids[-1] if len(ids) == SWEEP_ROWS_MAX else None

    async def _take_up_idle(self, saga_ids: Sequence[str]) -> None:
        idle = [saga_id for saga_id in saga_ids if saga_id not in self._runs]
        found = await self._log.load(idle) if idle else {}
        for one in found.values():
            # It may have come to rest since: then this is old, which the log tells who tries to take it over.
            if one.status not in {PARKED, ENDED}:
                self._take_up(one.instance, one.lines, taken_up=True)

    def _take_up(self, instance: Instance, lines: Sequence[Line], *, taken_up: bool) -> None:
        if self._group is None or instance.saga_id in self._runs or len(self._runs) >= self._in_flight_max:
            return
        saga = self._definition(instance)
        if saga is None:
            return
        run = _Run(instance, saga, taken_up)
        self._runs[instance.saga_id] = run
        metrics.SAGAS_RUNNING.set(len(self._runs))
        self._group.create_task(self._drive(run, lines))

    def _definition(self, instance: Instance) -> Saga | None:
        """The definition the saga began with; without it the saga waits for a process that has it."""
        key = (instance.saga, instance.version)
        if key not in self._sagas and key not in self._unknown:
            self._unknown.add(key)
            log.error("sagas of an unknown definition wait", extra={"saga": instance.saga, "version": instance.version})
        return self._sagas.get(key)

    async def _drive(self, run: _Run, lines: Sequence[Line]) -> None:
        """Takes one saga to its rest. What goes wrong is this saga's alone: the next sweep starts from its log."""
        extra = {"saga_id": run.instance.saga_id, "saga": run.saga.name}
        try:
            with start_root(run.instance.traceparent):
                await self._open(run, lines)
                async with self._turn(run):
                    while not run.stale and (actions := next_actions(run.saga, run.state)):
                        await self._act(run, actions)
        except asyncio.CancelledError:
            self._save_lazily(run)
            raise
        except DockyardError as error:
            run.stale = True
            log.warning("saga left to the next sweep", extra={**extra, "error": error.message})
        except Exception:  # the outermost loop of one saga: its neighbours go on
            run.stale = True
            log.exception("saga failed", extra=extra)
        finally:
            self._runs.pop(run.instance.saga_id, None)
            metrics.SAGAS_RUNNING.set(len(self._runs))

    def _turn(self, run: _Run) -> AbstractAsyncContextManager[None]:
        """Waits for room for one more of its kind; one that has begun may keep others waiting, and goes on at once."""
        turns = self._turns.get(run.saga.name)
        return nullcontext() if turns is None or run.state.steps else turns

    async def _open(self, run: _Run, lines: Sequence[Line]) -> None:
        """Begins a new saga, or carries on from its log: then whoever wrote it must not write any more."""
        if lines:
            run.state = fold(line.entry for line in lines)
            run.seq = lines[-1].seq
        else:
            self._note(run, Started())
        if run.taken_up:
            log.info("saga taken up", extra={"saga_id": run.instance.saga_id, "lines": len(lines)})
            await self._record(run, TakenUp(self._name))

    async def _act(self, run: _Run, actions: Sequence[Action]) -> None:
        first = actions[0]
        if isinstance(first, Record):
            await self._record(run, first.entry)
        elif len(actions) == 1:
            await self._try(run, first)
        else:
            async with asyncio.TaskGroup() as group:
                for action in actions:
                    group.create_task(self._try(run, action))

    async def _record(self, run: _Run, entry: AnyEntry) -> None:
        """Notes the line and returns when it is durable, and all lines before it."""
        what = type(entry).__name__
        self._note(run, entry)
        failpoint(f"saga.before-write:{what}")
        if isinstance(entry, Ended):
            await self._write_patiently(run)
        else:
            await self._writer.submit(run)
        failpoint(f"saga.after-write:{what}")
        if isinstance(entry, Ended | Parked):
            self._at_rest(run)

    async def _write_patiently(self, run: _Run) -> None:
        """Nobody waits for the end of a saga: it goes along with the lines of those that are still under way."""
        self._resting += 1
        try:
            await self._writer.submit(run, patient=self._resting < len(self._runs))
        finally:
            self._resting -= 1

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

    async def _try(self, run: _Run, action: Action) -> None:
        """Notes what came of it at once: who reads the log sees whom a group waits for."""
        assert isinstance(action, Do | Undo)
        self._note(run, await self._caller.attempt(run.instance, run.saga, run.state, action))

    def _note(self, run: _Run, entry: AnyEntry) -> None:
        run.state = apply(run.state, entry)
        run.seq += 1
        run.unsaved.append(Line(run.seq, self._clock.now(), entry))

    def _save_lazily(self, run: _Run) -> None:
        """Queues the run once: whatever it noted by the time its batch goes is written together."""
        if run.queued or run.stale:
            return
        run.queued = True
        try:
            self._writer.offer(run)
        except (Overloaded, Unavailable):
            run.queued = False  # the next durable write takes these lines along

    async def _write(self, runs: Sequence[_Run]) -> Sequence[DockyardError | None]:
        tails = {}
        for run in runs:
            run.queued = False
            if run.unsaved and not run.stale:
                tails[run.instance.saga_id] = Tail(run.instance.saga_id, tuple(run.unsaved))
        failpoint("saga.before-write:lines")
        overtaken = await self._log.write(list(tails.values()))
        failpoint("saga.after-write:lines")
        return [self._written(run, tails.get(run.instance.saga_id), overtaken) for run in runs]

    def _written(self, run: _Run, tail: Tail | None, overtaken: Collection[str]) -> DockyardError | None:
        if tail is not None and tail.saga_id not in overtaken:
            del run.unsaved[: len(tail.lines)]
            return None
        run.stale = run.stale or tail is not None
        return Conflict("another process writes this saga's log", code="saga-overtaken") if run.stale else None
