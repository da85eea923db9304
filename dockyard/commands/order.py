"""`dockyard order place`, `show`, `list`."""

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dockyard.asking import REQUEST_SECONDS, OrderUrlOption, ask, order_url
from dockyard.terminal import EXIT_FAILED, HomeOption, JsonOption, answer

if TYPE_CHECKING:
    from rich.console import RenderableType


WAIT_SECONDS_MAX = 60
PAGE_SIZE_MAX = 200


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
    url: OrderUrlOption = "",
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
    order = ask(
        url or order_url(home), "POST", "/v1/orders", seconds=wait + REQUEST_SECONDS, json=body, headers=headers
    )
    answer(order, as_json, lambda: _order_table([order]))
    if order["status"] in {"rejected", "cancelled"}:
        sys.exit(EXIT_FAILED)


def show(
    home: HomeOption,
    order_id: Annotated[str, typer.Argument(help="The order's id.")],
    url: OrderUrlOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show an order, what every service did for it and when, what was kept meanwhile, and what it waits for."""
    from libs.runtime.clock import SystemClock

    base = url or order_url(home)
    order = ask(base, "GET", f"/v1/orders/{order_id}")
    timeline = ask(base, "GET", f"/v1/orders/{order_id}/timeline")
    answer({"order": order, "timeline": timeline}, as_json, lambda: _story(order, timeline, SystemClock().now()))


def list_orders(
    home: HomeOption,
    customer: Annotated[str, typer.Option(help="Only this customer's.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=PAGE_SIZE_MAX, help="At most so many, newest first.")] = 20,
    url: OrderUrlOption = "",
    as_json: JsonOption = False,
) -> None:
    """List orders, newest first."""
    query = {"customer": customer, "page_size": str(limit)}
    page = ask(url or order_url(home), "GET", "/v1/orders", params=query)
    answer(page, as_json, lambda: _order_table(page["orders"]))


def _line(text: str) -> dict[str, Any]:
    sku, equals, quantity = text.partition("=")
    if not (sku and equals and quantity.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not SKU=QUANTITY, as in lamp=2")
    return {"sku": sku, "quantity": int(quantity)}


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


def _story(order: dict[str, Any], timeline: dict[str, Any], now: datetime) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_order_table([order]), _happened(timeline)]
    if timeline["kept"]:
        parts.append(_kept(timeline, now))
    if timeline["waits_for"]:
        since = f" since {_lasted(timeline['waits_since'], now)}" if timeline["waits_since"] else ""
        parts.append(Text(f"waits for {timeline['waits_for']}{since}", "yellow"))
    return Group(*parts)


def _happened(timeline: dict[str, Any]) -> "RenderableType":
    """Every entry with its milliseconds since the first, which is named in the title."""
    from rich.table import Table

    entries = timeline["entries"]
    start = entries[0]["at"]
    moment = datetime.fromisoformat(start).strftime("%Y-%m-%d %H:%M:%S")
    title = f"{timeline['coordination']} order, {timeline['state']}; 0 ms is {moment} UTC"
    happened = Table("ms", "service", "what happened", "try", "detail", title=title)
    happened.columns[0].justify = "right"
    for entry in entries:
        is_missing = entry["kind"] == "unavailable"
        offset = "" if is_missing else f"{_ms(start, entry['at']):,}"
        attempt = str(entry["attempt"] or "")
        style = "yellow" if is_missing else None
        happened.add_row(offset, entry["service"], entry["what"], attempt, entry["detail"], style=style)
    return happened


def _kept(timeline: dict[str, Any], now: datetime) -> "RenderableType":
    from rich.table import Table

    start = timeline["entries"][0]["at"]
    kept = Table("from ms", "service", "kept from others", "for", title="kept")
    kept.columns[0].justify = "right"
    for one in timeline["kept"]:
        lasted = f"{_ms(one['since'], one['until']):,} ms" if one["until"] else f"{_lasted(one['since'], now)}, still"
        kept.add_row(f"{_ms(start, one['since']):,}", one["service"], one["what"], lasted)
    return kept


def _ms(start: str, end: str) -> int:
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() * 1000)


def _lasted(since: str, now: datetime) -> str:
    return f"{max((now - datetime.fromisoformat(since)).total_seconds(), 0.0):.1f} s"
