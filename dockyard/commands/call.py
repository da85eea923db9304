"""`dockyard call`: one gRPC call to a server that reflects."""

import sys
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(call)


def call(
    address: Annotated[str, typer.Argument(help="Where the server listens: 127.0.0.1:9101 is the order service.")],
    method: Annotated[str, typer.Argument(help="package.Service/Method; without one every method is listed.")] = "",
    request: Annotated[str, typer.Argument(help="The request as JSON.")] = "{}",
) -> None:
    """Call a gRPC method by its name, request and answer as JSON; the server's reflection knows their shape."""
    import grpc
    import msgspec

    from dockyard.reflection import Reflected

    with grpc.insecure_channel(address) as channel:
        server = Reflected(channel, address)
        if method:
            answer = msgspec.json.format(msgspec.json.encode(server.call(method, request)))
            sys.stdout.write(answer.decode() + "\n")
        else:
            sys.stdout.writelines(f"{name}\n" for name in server.methods())
