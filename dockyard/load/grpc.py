"""Places orders over gRPC, as `drive` does over HTTP."""

from typing import TYPE_CHECKING

import grpc

from dockyard.load.drive import RETRY_SECONDS, TRIES_MAX, WAIT_SECONDS, Ended, NoEnd, out_of_patience, wait_seconds
from dockyard.load.orders import Drawn
from libs.kernel.errors import DockyardError, InDoubt, Overloaded, StillRunning, Unavailable
from libs.runtime.clock import Clock
from libs.runtime.grpc_edge import call_error
from proto.kernel.v1 import kernel_pb2
from proto.order.v1 import order_pb2

if TYPE_CHECKING:
    from proto.order.v1 import order_pb2_grpc

STATUSES = {
    order_pb2.ORDER_STATUS_PENDING: "pending",
    order_pb2.ORDER_STATUS_CONFIRMED: "confirmed",
    order_pb2.ORDER_STATUS_SHIPPED: "shipped",
    order_pb2.ORDER_STATUS_REJECTED: "rejected",
    order_pb2.ORDER_STATUS_CANCELLED: "cancelled",
}

# What says "later": ask again under the same key.
LATER = (Unavailable, Overloaded, InDoubt, StillRunning)


async def place_over_grpc(stub: "order_pb2_grpc.OrderServiceAsyncStub", drawn: Drawn, clock: Clock) -> Ended:
    """Places an order and waits for its end, asking again under the same key for as long as that makes sense."""
    request = _request(drawn)
    started = clock.monotonic()
    for tries in range(1, TRIES_MAX + 1):
        try:
            response = await stub.PlaceOrder(request, timeout=WAIT_SECONDS + 5)
        except grpc.aio.AioRpcError as failed:
            error = call_error(failed)
            if not isinstance(error, LATER):
                raise error from failed
            await clock.sleep(RETRY_SECONDS)
            continue
        status = STATUSES.get(response.order.status, "unknown")
        seconds = clock.monotonic() - started
        if status != "pending":
            return Ended(drawn, response.order.order_id, status, response.order.reason, seconds, tries)
        if out_of_patience(drawn, seconds):
            raise NoEnd(response.order.order_id, seconds)
    raise DockyardError(f"no end after {TRIES_MAX} tries", code="no-end")


def _request(drawn: Drawn) -> order_pb2.PlaceOrderRequest:
    body = drawn.body
    return order_pb2.PlaceOrderRequest(
        idempotency_key=drawn.key,
        customer_id=body["customer_id"],
        lines=[kernel_pb2.Line(**line) for line in body["lines"]],
        card_token=body["card_token"],
        ship_to=kernel_pb2.Address(**body["ship_to"]),
        coordination=body["coordination"],
        wait_seconds=wait_seconds(drawn),
    )
