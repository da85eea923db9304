"""One try of one step: ask the participant, within its time, and say what came of it as a line of the log."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from libs.kernel.errors import DockyardError, InDoubt, Refused, Unavailable
from libs.runtime.clock import Clock
from libs.runtime.failpoints import failpoint
from libs.saga.definition import Command, MakeCommand, Saga, Step
from libs.saga.entries import AnyEntry, FaultKind, StepDone, StepFailed, StepRefused, UndoDone, UndoFailed
from libs.saga.log import Instance
from libs.saga.machine import Do, State, Undo
from libs.telemetry import names
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import span

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

        Raises Refused (the answer is no), Unavailable (nothing happened), InDoubt (it may have happened). An answer
        and a refusal are remembered: a repeat gets the same. An undo that comes first wins over its do.
        """
        ...


def call_failpoints(saga: Saga) -> tuple[str, ...]:
    """The places before and after each call that this saga may make."""
    calls = [f"{step.name}.do" for step in saga.steps]
    calls += [f"{step.name}.undo" for step in saga.steps if step.undone_by]
    return tuple(f"saga.{moment}-call:{call}" for call in calls for moment in ("before", "after"))


class Caller:
    def __init__(self, participants: Mapping[str, Participant], clock: Clock) -> None:
        self._participants = participants
        self._clock = clock

    async def attempt(self, instance: Instance, saga: Saga, state: State, action: Do | Undo) -> AnyEntry:
        """Makes one try, after its delay; what went wrong is the answer, not an error."""
        if action.delay_seconds > 0:
            await self._clock.sleep(action.delay_seconds)
        step = saga.step(action.step)
        if isinstance(action, Do):
            return await self._do(instance, state, step, action.attempt)
        return await self._undo(instance, state, step, action.attempt)

    async def _do(self, instance: Instance, state: State, step: Step, attempt: int) -> AnyEntry:
        context = self._context(instance, state, step, "do", attempt)
        try:
            result = await self._call(instance, state, step, step.do, context)
        except Refused as refusal:
            return StepRefused(step.name, refusal.code, refusal.message)
        except Unavailable as error:
            return StepFailed(step.name, attempt, FaultKind.UNAVAILABLE, error.message)
        except DockyardError as error:
            # Whatever else a participant says leaves open what it did.
            return StepFailed(step.name, attempt, FaultKind.IN_DOUBT, f"{error.code}: {error.message}")
        return StepDone(step.name, result)

    async def _undo(self, instance: Instance, state: State, step: Step, attempt: int) -> AnyEntry:
        assert step.undone_by is not None, f"{step.name} has no undo to send"
        context = self._context(instance, state, step, "undo", attempt)
        try:
            result = await self._call(instance, state, step, step.undone_by, context)
        except DockyardError as error:
            return UndoFailed(step.name, attempt, f"{error.code}: {error.message}")
        return UndoDone(step.name, result)

    async def _call(
        self, instance: Instance, state: State, step: Step, make: MakeCommand, context: CommandContext
    ) -> Any:
        place = f"{step.name}.{context.operation}"
        attributes: dict[str, str | int] = {
            names.SAGA_ID: context.saga_id,
            names.SAGA_STEP: step.name,
            names.SAGA_ATTEMPT: context.attempt,
        }
        failpoint(f"saga.before-call:{place}")
        try:
            with span(names.SAGA_DO if context.operation == "do" else names.SAGA_UNDO, attributes=attributes):
                return await self._answer(make, instance.input, state.results, step.timeout_seconds, context)
        finally:
            failpoint(f"saga.after-call:{place}")

    async def _answer(
        self, make: MakeCommand, body: Any, results: Mapping[str, Any], seconds: float, context: CommandContext
    ) -> Any:
        """The participant's answer as the log will read it back: dicts, lists, texts, numbers."""
        try:
            async with asyncio.timeout(seconds):
                command = make(body, results)
                answer = await self._participants[command.participant].execute(command, context)
            return msgspec.to_builtins(answer)
        except TimeoutError:
            raise InDoubt(f"no answer within {seconds} s", code="timeout") from None
        except DockyardError:
            raise
        except Exception as bug:  # the outermost loop of one call: tries are bounded, then somebody hears of it
            log.exception("a participant broke its promise", extra={"saga_id": context.saga_id, "step": context.step})
            raise InDoubt(f"{type(bug).__name__}: {bug}", code="internal") from bug

    def _context(self, instance: Instance, state: State, step: Step, operation: str, attempt: int) -> CommandContext:
        """Each try has its own deadline; an undo has nothing to do with how late the do already was."""
        deadline = self._clock.unix_ms() + int(step.timeout_seconds * 1000)
        code, message = (state.undo.code, state.undo.message) if state.undo else ("", "")
        return CommandContext(instance.saga_id, step.name, operation, attempt, deadline, code, message)
