"""`dockyard order place`, `show`, `list`."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dockyard.terminal import EXIT_FAILED, HomeOption, JsonOption, answer, complain

if TYPE_CHECKING:
    import httpx
    from rich.console import RenderableType


WAIT_SECONDS_MAX = 60
REQUEST_SECONDS = 10.0
PAGE_SIZE_MAX = 200

UrlOption = Annotated[
    str, typer.Option("--url", envvar="DOCKYARD_ORDER_URL", help="The order service; by default this home's own.")
]


def register(app: typer.Typer) -> None:
    orders = typer.Typer(help="Place, show and list orders.", no_args_is_help=True)
    orders.command()(place)
    orders.command()(show)
    orders.command(name="list")(list_orders)
    app.add_typer(orders, name="order")


def place(  # noqa: PLR0913, PLR0917  (the parts of an order)
    home: HomeOption,
    lines: Annotated[list[str], typer.Argument(help="What to order: SKU=QUANTITY, as often as you like.")],
    customer: Annotated[str, typer.Option(help="Who orders.")] = "ada",
    card: Annotated[str, typer.Option(help="The card's token: tok_ok, tok_declined, tok_slow, …")] = "tok_ok",
    zone: Annotated[str, typer.Option(help="Country to ship to, as two capital letters.")] = "DE",
    coordination: Annotated[str, typer.Option(help="How the order is coordinated.")] = "orchestrated",
    key: Annotated[str, typer.Option(help="Idempotency key; by default a new one.")] = "",
    wait: Annotated[int, typer.Option(min=0, max=WAIT_SECONDS_MAX, help="Wait so long for its end.")] = 10,
    url: UrlOption = "",
    as_json: JsonOption = False,
) -> None:
    """Place one order and wait for its end; exit code 1 when it was rejected."""
    from libs.runtime.clock import Ids, SystemClock

    address = {"name": customer, "street": "Quay 1", "city": "Dockside", "postcode": "20457", "zone": zone}
    body = {
        "customer_id": customer,
        "lines": [_line(line) for line in lines],
        "card_token": card,
        "ship_to": address,
        "coordination": coordination,
    }
    headers = {"Idempotency-Key": key or Ids(SystemClock()).new("cli"), "Prefer": f"wait={wait}"}
    order = _ask(url or _url(home), "POST", "/v1/orders", seconds=wait + REQUEST_SECONDS, json=body, headers=headers)
    answer(order, as_json, lambda: _order_table([order]))
    if order["status"] in {"rejected", "cancelled"}:
        sys.exit(EXIT_FAILED)


def show(
    home: HomeOption,
    order_id: Annotated[str, typer.Argument(help="The order's id.")],
    url: UrlOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show an order, everything that happened to it, and what it waits for."""
    base = url or _url(home)
    order = _ask(base, "GET", f"/v1/orders/{order_id}")
    timeline = _ask(base, "GET", f"/v1/orders/{order_id}/timeline")
    answer({"order": order, "timeline": timeline}, as_json, lambda: _story(order, timeline))


def list_orders(
    home: HomeOption,
    customer: Annotated[str, typer.Option(help="Only this customer's.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=PAGE_SIZE_MAX, help="At most so many, newest first.")] = 20,
    url: UrlOption = "",
    as_json: JsonOption = False,
) -> None:
    """List orders, newest first."""
    query = {"customer": customer, "page_size": str(limit)}
    page = _ask(url or _url(home), "GET", "/v1/orders", params=query)
    answer(page, as_json, lambda: _order_table(page["orders"]))


def _line(text: str) -> dict[str, Any]:
    sku, equals, quantity = text.partition("=")
    if not (sku and equals and quantity.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not SKU=QUANTITY, as in lamp=2")
    return {"sku": sku, "quantity": int(quantity)}


def _url(home: Any) -> str:
    from dockyard.local.platform import Platform

    return Platform.open(home).urls["order"]


def _ask(base: str, method: str, path: str, seconds: float = REQUEST_SECONDS, **request: Any) -> dict[str, Any]:
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


def _order_table(orders: list[dict[str, Any]]) -> "RenderableType":
    from rich.table import Table

    table = Table("order", "status", "customer", "lines", "total", "placed")
    for order in orders:
        status = f"{order['status']}: {order['reason']}" if order["reason"] else order["status"]
        if order["parked_reason"]:
            status = f"{status}, parked: {order['parked_reason']}"
        total = order["total"]
        lines = ", ".join(f"{line['sku']}={line['quantity']}" for line in order["lines"][:3])
        more = f" and {len(order['lines']) - 3} more" if len(order["lines"]) > 3 else ""
        amount = f"{total['minor_units'] / 100:.2f} {total['currency']}"
        table.add_row(order["order_id"], status, order["customer_id"], lines + more, amount, order["placed_at"][:19])
    return table


def _story(order: dict[str, Any], timeline: dict[str, Any]) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    happened = Table("time", "service", "what happened", "try", "detail", title=f"saga {timeline['state']}")
    for entry in timeline["entries"]:
        attempt = str(entry["attempt"] or "")
        happened.add_row(entry["at"][11:23], entry["service"], entry["what"], attempt, entry["detail"])
    parts: list[RenderableType] = [_order_table([order]), happened]
    if timeline["waits_for"]:
        parts.append(Text(f"waits for {timeline['waits_for']}", "yellow"))
    return Group(*parts)
