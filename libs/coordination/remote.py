"""The coordinator as a participant in another process sees it."""

from collections.abc import Mapping, Sequence

from libs.coordination.outcomes import Outcome
from libs.runtime.coordinator_rpc import ResolveCall
from proto.coordination.v1 import coordination_pb2

OUTCOMES: Mapping[int, Outcome] = {
    coordination_pb2.OUTCOME_CONFIRM: Outcome.CONFIRM,
    coordination_pb2.OUTCOME_CANCEL: Outcome.CANCEL,
    coordination_pb2.OUTCOME_UNDECIDED: Outcome.UNDECIDED,
}


class RemoteCoordinator:
    """Raises Unavailable or InDoubt when it does not answer; an answer it does not know means: not decided."""

    def __init__(self, resolve: ResolveCall) -> None:
        self._resolve = resolve

    async def resolve(self, transaction_ids: Sequence[str]) -> Sequence[Outcome]:
        return [OUTCOMES.get(answer, Outcome.UNDECIDED) for answer in await self._resolve(transaction_ids)]
