"""The coordinator's answers to its participants, over gRPC."""

from collections.abc import Mapping
from typing import Any

import grpc

from libs.coordination.outcomes import Coordinator, Outcome
from libs.kernel.errors import Invalid
from proto.coordination.v1 import coordination_pb2, coordination_pb2_grpc

# Participants ask about 100 at a time.
TRANSACTIONS_MAX = 500

OUTCOMES: Mapping[Outcome, coordination_pb2.Outcome.ValueType] = {
    Outcome.CONFIRM: coordination_pb2.OUTCOME_CONFIRM,
    Outcome.CANCEL: coordination_pb2.OUTCOME_CANCEL,
    Outcome.UNDECIDED: coordination_pb2.OUTCOME_UNDECIDED,
}

Context = grpc.aio.ServicerContext[Any, Any]


class CoordinatorServicer(coordination_pb2_grpc.CoordinatorServiceServicer):
    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    async def Resolve(
        self, request: coordination_pb2.ResolveRequest, context: Context
    ) -> coordination_pb2.ResolveResponse:
        if len(request.transaction_ids) > TRANSACTIONS_MAX:
            raise Invalid(f"at most {TRANSACTIONS_MAX} transactions at once, not {len(request.transaction_ids)}")
        outcomes = await self._coordinator.resolve(list(request.transaction_ids))
        return coordination_pb2.ResolveResponse(outcomes=[OUTCOMES[outcome] for outcome in outcomes])
