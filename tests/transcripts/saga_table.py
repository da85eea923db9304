"""Plays one saga at a table: you are the participants and the misfortunes, the machine answers with what it wants.

saga                       then one step a line: take, charge tries=3, confirm pivot, tell retriable,
                           hold group=g, look nothing-to-undo
STEP done|refused CODE|unavailable|in-doubt      the answer to a do
STEP undone|not undone                           the answer to an undo
save                       what was noted so far is written, as happens from time to time
cancel WHY                 the customer asks to cancel
crash                      the process dies; what was not written is lost
take over                  another process carries on from the log
resume WHO                 an operator lets a parked saga go on
skip STEP WHO              an operator proves that a step was done, or undone
force WHO                  an operator ends a parked saga as it stands

-> step.do      a command is sent          == line     written durably before going on
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from libs.saga import timeline
from libs.saga.definition import NOTHING_TO_UNDO, Command, Kind, Retry, Saga, Step
from libs.saga.entries import (
    AnyEntry,
    CancelRequested,
    EndForced,
    FaultKind,
    Resumed,
    Skipped,
    Started,
    StepDone,
    StepFailed,
    StepRefused,
    TakenUp,
    UndoDone,
    UndoFailed,
)
from libs.saga.log import Line
from libs.saga.machine import Do, Record, State, Undo, fold, next_actions, skippable

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class SagaTable:
    def __init__(self) -> None:
        self._saga = Saga("none", (Step("none", _command, _command),))
        self._log: list[AnyEntry] = []
        self._saved = 0
        self._asked: dict[str, Do | Undo] = {}
        self._answers: list[AnyEntry] = []

    def __call__(self, said: list[str]) -> list[str]:
        if said[0] == "saga":
            self._saga = Saga("demo", tuple(_step(line) for line in said[1:]))
            self._log = [Started()]
            return self._go_on()
        return [line for one in said for line in self._hear(one)]

    def _hear(self, said: str) -> list[str]:
        match said.split():
            case ["save"]:
                self._saved = len(self._log)
                return []
            case ["crash"]:
                return self._crash()
            case ["take", "over"]:
                return self._durably(TakenUp("another process"))
            case ["resume", who]:
                return self._durably(Resumed(who, "fixed it"))
            case ["skip", step, who]:
                may = skippable(self._saga, self._state())
                if step not in may:
                    return [f"not skipped; may be: {', '.join(may) or 'nothing'}"]
                return self._durably(Skipped(step, who, "by hand", "seen"))
            case ["force", who]:
                return self._durably(EndForced(who, "enough"))
            case ["cancel", *why]:
                self._log.append(CancelRequested(" ".join(why)))
                return [] if self._asked else self._go_on()
            case [step, *answer]:
                return self._answered(step, answer)
        raise AssertionError(f"nobody understands {said!r}")

    def _answered(self, step: str, answer: list[str]) -> list[str]:
        asked = self._asked.pop(step)
        self._answers.append(_entry(asked, answer))
        if self._asked:
            return [f"(waits for {', '.join(self._asked)})"]
        self._log += self._answers
        self._answers = []
        return self._go_on()

    def _crash(self) -> list[str]:
        lost = self._log[self._saved :]
        del self._log[self._saved :]
        self._asked, self._answers = {}, []
        return [f"lost: {', '.join(_words(entry) for entry in lost) or 'nothing'}"]

    def _durably(self, entry: AnyEntry) -> list[str]:
        self._log.append(entry)
        self._saved = len(self._log)
        return [f"== {_words(entry)}", *self._go_on()]

    def _go_on(self) -> list[str]:
        """Writes what must be written, then sends what is to be sent."""
        state = self._state()
        actions = next_actions(self._saga, state)
        if not actions:
            return []
        if isinstance(actions[0], Record):
            return self._durably(actions[0].entry)
        self._asked = {action.step: action for action in actions if isinstance(action, Do | Undo)}
        return [_sent(action) for action in self._asked.values()]

    def _state(self) -> State:
        return fold(self._log)


def _step(line: str) -> Step:
    name, *words = line.split()
    given = dict(word.split("=") for word in words if "=" in word)
    kind = next((Kind(word) for word in words if word in set(Kind)), Kind.COMPENSATABLE)
    undo = NOTHING_TO_UNDO if "nothing-to-undo" in words else _command
    tries = Retry(attempts_max=int(given.get("tries", 2)))
    return Step(
        name,
        _command,
        undo if kind is Kind.COMPENSATABLE else None,
        kind,
        retry=tries,
        undo_retry=tries,
        group=given.get("group", ""),
    )


def _command(_: Any, __: Mapping[str, Any]) -> Command:
    return Command("table", "anything", None)


def _entry(asked: Do | Undo, answer: list[str]) -> AnyEntry:
    match asked, answer:
        case Do(step=step), ["done"]:
            return StepDone(step)
        case Do(step=step), ["refused", code]:
            return StepRefused(step, code, "")
        case Do(step=step, attempt=attempt), [("unavailable" | "in-doubt") as kind]:
            return StepFailed(step, attempt, FaultKind(kind), "")
        case Undo(step=step), ["undone"]:
            return UndoDone(step)
        case Undo(step=step, attempt=attempt), ["not", "undone"]:
            return UndoFailed(step, attempt, "no answer")
    raise AssertionError(f"{' '.join(answer)!r} does not answer {asked}")


def _sent(action: Do | Undo) -> str:
    operation = "do" if isinstance(action, Do) else "undo"
    again = f" (try {action.attempt}, after {action.delay_seconds} s)" if action.attempt > 1 else ""
    return f"-> {action.step}.{operation}{again}"


def _words(entry: AnyEntry) -> str:
    (moment,) = timeline.moments([Line(1, NOON, entry)])
    return f"{moment.what}: {moment.detail}" if moment.what == "parked" else moment.what
