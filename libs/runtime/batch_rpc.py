"""The participant's side of a batch RPC: each command keeps its own key, deadline, trace and outcome."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from libs.kernel.errors import DockyardError, InDoubt, Invalid, Refused, Unavailable
from libs.telemetry import names
from libs.telemetry.logs import get_logger
from libs.telemetry.tracing import is_recording, span
from proto.participant.v1 import participant_pb2

# Coordinators send at most 128 at a time; people may try more.
COMMANDS_MAX = 500
TEXT_LETTERS_MAX = 128
# A hold that would not ask for longer than a day has been forgotten.
LEASE_MS_MAX = 24 * 3600 * 1000

OPERATIONS = frozenset(
    {participant_pb2.OPERATION_DO, participant_pb2.OPERATION_UNDO, participant_pb2.OPERATION_CONFIRM}
)

log = get_logger(__name__)

R = TypeVar("R")

Execute = Callable[[Any], Awaitable[R]]
Failed = Callable[[participant_pb2.Refusal | participant_pb2.Fault], R]


async def execute_batch(commands: Sequence[Any], execute: Execute[R], failed: Failed[R]) -> list[R]:
    """Executes the commands together and answers each by itself, in order. Raises Invalid when there are too many.

    `execute` answers one command and may raise; `failed` wraps what it raised for the participant's own result.
    """
    if len(commands) > COMMANDS_MAX:
        raise Invalid(f"a batch has at most {COMMANDS_MAX} commands, not {len(commands)}")
    results = await asyncio.gather(*(_one(command, execute) for command in commands), return_exceptions=True)
    return [failed(failure(result)) if isinstance(result, BaseException) else result for result in results]


async def _one(command: Any, execute: Execute[R]) -> R:
    context = command.context
    check_context(context)
    if not is_recording():
        return await execute(command)
    attributes = {
        names.TRANSACTION_ID: context.transaction_id,
        names.COMMAND_STEP: context.step,
        names.COMMAND_OPERATION: participant_pb2.Operation.Name(context.operation),
    }
    with span(names.COMMAND, traceparent=context.traceparent or None, attributes=attributes):
        return await execute(command)


def check_context(context: participant_pb2.CommandContext) -> None:
    """Raises Invalid when a command does not say which effect it is about."""
    for name, value in (("transaction_id", context.transaction_id), ("step", context.step)):
        if not 1 <= len(value) <= TEXT_LETTERS_MAX:
            raise Invalid(f"a command's {name} has 1 to {TEXT_LETTERS_MAX} characters")
    if context.operation not in OPERATIONS:
        raise Invalid("a command's operation is do, undo or confirm")
    if context.manner not in participant_pb2.Manner.values():
        raise Invalid("a command's manner is at once, hold or prepare")
    if not 0 <= context.lease_ms <= LEASE_MS_MAX:
        raise Invalid(f"a command's lease_ms is 0 to {LEASE_MS_MAX}")


def failure(error: BaseException) -> participant_pb2.Refusal | participant_pb2.Fault:
    """An error as the coordinator hears of it: only Unavailable promises that nothing happened."""
    match error:
        case Unavailable():
            return _fault(participant_pb2.FAULT_KIND_UNAVAILABLE, error)
        case InDoubt():
            return _fault(participant_pb2.FAULT_KIND_IN_DOUBT, error)
        case Refused():
            return _refusal(error)
        case DockyardError():
            # Malformed, mismatched, not found: nothing happened and never will under this key.
            return _refusal(error)
        case asyncio.CancelledError():
            raise error
        case _:
            log.error("command failed", exc_info=error)
            return participant_pb2.Fault(
                kind=participant_pb2.FAULT_KIND_IN_DOUBT, code="internal", message="the participant failed; see its log"
            )


def _fault(kind: participant_pb2.FaultKind.ValueType, error: DockyardError) -> participant_pb2.Fault:
    return participant_pb2.Fault(
        kind=kind,
        code=error.code,
        message=error.message,
        retry_after_ms=int((error.retry_after_seconds or 0) * 1000),
    )


def _refusal(error: DockyardError) -> participant_pb2.Refusal:
    return participant_pb2.Refusal(code=error.code, message=error.message, details=dict(error.details))
