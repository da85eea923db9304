"""The coordinator, asked over gRPC."""

from collections.abc import Sequence

import grpc

from libs.kernel.errors import InDoubt
from libs.runtime.grpc_edge import call
from proto.coordination.v1 import coordination_pb2, coordination_pb2_grpc

RESOLVE_SECONDS = 5.0


class ResolveCall:
    """Asks what became of transactions; the answers are the contract's numbers, one for each, in order."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = coordination_pb2_grpc.CoordinatorServiceStub(channel)

    async def __call__(self, transaction_ids: Sequence[str]) -> Sequence[int]:
        request = coordination_pb2.ResolveRequest(transaction_ids=transaction_ids)
        response = await call(self._stub.Resolve, request, RESOLVE_SECONDS)
        if len(response.outcomes) != len(transaction_ids):
            raise InDoubt(f"asked about {len(transaction_ids)} transactions, heard of {len(response.outcomes)}")
        return list(response.outcomes)
