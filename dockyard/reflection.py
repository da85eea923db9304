"""Calls any gRPC server that reflects, knowing nothing of its contract beforehand: what grpcurl does, in Python."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from libs.kernel.errors import DockyardError, Invalid, NotFound, Unavailable

CALL_SECONDS = 65.0
CONNECT_SECONDS = 5.0
STATUS_DETAILS = "grpc-status-details-bin"


class CallRefused(DockyardError):
    """The server's answer was an error; `answer` is its google.rpc.Status as JSON."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(answer, indent=2), code=str(answer["code"]))
        self.answer = answer


class Reflected:
    """One server, seen through its reflection service. Raises Unavailable when it cannot be reached."""

    def __init__(self, channel: grpc.Channel, address: str) -> None:
        self._channel = channel
        self._address = address
        self._database = ProtoReflectionDescriptorDatabase(channel)
        self._pool = DescriptorPool(self._database)

    def methods(self) -> Iterator[str]:
        """Every method the server offers, as package.Service/Method."""
        self._connect()
        for service in sorted(self._database.get_services()):
            yield from (f"{service}/{method}" for method in self._pool.FindServiceByName(service).methods_by_name)

    def call(self, name: str, request: str) -> dict[str, Any]:
        """The answer to one unary call; request and answer are JSON. Raises Invalid, NotFound, CallRefused."""
        self._connect()
        method = self._method(name)
        message = GetMessageClass(method.input_type)()
        try:
            json_format.Parse(request, message)
        except json_format.ParseError as error:
            raise Invalid(f"{method.input_type.full_name}: {error}") from error
        invoke: Callable[..., Message] = self._channel.unary_unary(
            f"/{name}",
            request_serializer=lambda one: one.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        try:
            answer = invoke(message, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise CallRefused(_status(error)) from error
        return json_format.MessageToDict(answer, preserving_proto_field_name=True)

    def _connect(self) -> None:
        try:
            grpc.channel_ready_future(self._channel).result(CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            raise Unavailable(f"nobody answers gRPC at {self._address}: is the platform up?") from None

    def _method(self, name: str) -> MethodDescriptor:
        service, _, method = name.partition("/")
        try:
            found = self._pool.FindServiceByName(service).methods_by_name.get(method)
        except KeyError:
            found = None
        if found is None:
            raise NotFound(f"{self._address} has no method {name!r}; without one this command lists them")
        return found


def _status(error: Any) -> dict[str, Any]:
    """The error as people read it: code, message and the details that are known."""
    status = {"code": error.code().name, "message": error.details()}
    trailers = dict(error.trailing_metadata() or ())
    if STATUS_DETAILS in trailers:
        packed = status_pb2.Status.FromString(trailers[STATUS_DETAILS]).details
        status["details"] = [detail for one in packed for detail in _detail(one)]
    return status


def _detail(packed: Any) -> Iterator[dict[str, Any]]:
    for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.BadRequest):
        detail = kind()
        if packed.Unpack(detail):
            yield json_format.MessageToDict(detail, preserving_proto_field_name=True)
