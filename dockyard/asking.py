"""How a command asks a service over HTTP: one request, answered, or ended in the service's own words."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dockyard.terminal import EXIT_FAILED, complain

if TYPE_CHECKING:
    import httpx

REQUEST_SECONDS = 10.0

OrderUrlOption = Annotated[
    str, typer.Option("--url", envvar="DOCKYARD_ORDER_URL", help="The order service; by default this home's own.")
]


def order_url(home: Path) -> str:
    from dockyard.local.platform import Platform

    return Platform.open(home).urls["order"]


def ask(base: str, method: str, path: str, seconds: float = REQUEST_SECONDS, **request: Any) -> dict[str, Any]:
    """One request; what the service refuses is said in its own words, and ends the command."""
    import httpx

    from libs.kernel.errors import Unavailable

    try:
        response = httpx.request(method, base + path, timeout=seconds, trust_env=False, **request)
    except httpx.HTTPError as error:
        raise Unavailable(f"{base} does not answer ({error}): is the platform up? try `dockyard status`") from error
    if response.is_success:
        return dict(response.json())
    complain(_problem(response))
    sys.exit(EXIT_FAILED)


def _problem(response: "httpx.Response") -> str:
    try:
        problem = response.json()
        return f"{problem['code']}: {problem['detail']} (HTTP {response.status_code})"
    except (ValueError, KeyError):
        return f"HTTP {response.status_code} from {response.url}"
