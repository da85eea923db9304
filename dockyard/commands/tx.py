"""`dockyard tx list`, `show`, `actions`, and an operator's verbs: `retry`, `skip`, `compensate`, `end`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dockyard.asking import OrderUrlOption, ask, order_url
from dockyard.terminal import HomeOption, JsonOption, answer

if TYPE_CHECKING:
    from rich.console import RenderableType

PAGE_SIZE_MAX = 200
REASON_LETTERS_SHOWN = 80

IdArgument = Annotated[str, typer.Argument(help="The transaction's id: the order's, or ORDER/cancel/N.")]
ByOption = Annotated[str, typer.Option("--by", envvar="DOCKYARD_OPERATOR", help="Who you are; kept with what you do.")]
WhyOption = Annotated[str, typer.Option("--why", help="Why; kept with what you do.")]
KeyOption = Annotated[str, typer.Option("--key", help="Idempotency key; by default a new one.")]
LimitOption = Annotated[int, typer.Option(min=1, max=PAGE_SIZE_MAX, help="At most so many.")]
AfterOption = Annotated[str, typer.Option("--after", help="The next page: the token that ended the last one.")]


def register(app: typer.Typer) -> None:
    transactions = typer.Typer(
        help="See transactions that have not ended, and help those that are parked.", no_args_is_help=True
    )
    transactions.command(name="list")(list_transactions)
    for command in (show, retry, skip, compensate, end, actions):
        transactions.command()(command)
    app.add_typer(transactions, name="tx")


def list_transactions(
    home: HomeOption,
    state: Annotated[str, typer.Option(help="Only running, undoing or parked ones.")] = "",
    limit: LimitOption = 50,
    after: AfterOption = "",
    url: OrderUrlOption = "",
    as_json: JsonOption = False,
) -> None:
    """List transactions of every style that have not ended, oldest first."""
    query = {"state": state, "page_size": str(limit), "page_token": after}
    page = ask(url or order_url(home), "GET", "/v1/transactions", params=query)
    answer(page, as_json, lambda: _paged(_table(page["transactions"]), page))


def show(home: HomeOption, transaction_id: IdArgument, url: OrderUrlOption = "", as_json: JsonOption = False) -> None:
    """Show one transaction, what it waits for, and what operators did to it."""
    shown = ask(url or order_url(home), "GET", _path(transaction_id))
    answer(shown, as_json, lambda: _story(shown["transaction"], shown["actions"]))


def retry(
    home: HomeOption,
    transaction_id: IdArgument,
    by: ByOption,
    why: WhyOption,
    key: KeyOption = "",
    url: OrderUrlOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let a parked transaction try again."""
    _do("retry", url or order_url(home), transaction_id, {"by": by, "why": why}, key, as_json)


def skip(  # noqa: PLR0913, PLR0917  (what is kept of it)
    home: HomeOption,
    transaction_id: IdArgument,
    by: ByOption,
    why: WhyOption,
    proof: Annotated[str, typer.Option(help="What shows that the step was done, or undone.")],
    step: Annotated[str, typer.Option(help="Which step; by default the one it is stuck at.")] = "",
    key: KeyOption = "",
    url: OrderUrlOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take a step as done, or as undone when it goes back, on a proof; nothing is sent for it any more."""
    body = {"by": by, "why": why, "step": step, "proof": proof}
    _do("skip", url or order_url(home), transaction_id, body, key, as_json)


def compensate(
    home: HomeOption,
    transaction_id: IdArgument,
    by: ByOption,
    why: WhyOption,
    key: KeyOption = "",
    url: OrderUrlOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take a pending order back, whatever its checkout has done so far."""
    _do("compensate", url or order_url(home), transaction_id, {"by": by, "why": why}, key, as_json)


def end(
    home: HomeOption,
    transaction_id: IdArgument,
    by: ByOption,
    why: WhyOption,
    proof: Annotated[str, typer.Option(help="What shows that nothing is owed, where no coordinator knows.")] = "",
    key: KeyOption = "",
    url: OrderUrlOption = "",
    as_json: JsonOption = False,
) -> None:
    """End a parked transaction of which nothing is owed any more."""
    _do("end", url or order_url(home), transaction_id, {"by": by, "why": why, "proof": proof}, key, as_json)


def actions(
    home: HomeOption,
    transaction_id: Annotated[str, typer.Argument(help="Only this transaction's.")] = "",
    limit: LimitOption = 50,
    after: AfterOption = "",
    url: OrderUrlOption = "",
    as_json: JsonOption = False,
) -> None:
    """List what operators did, and what they were refused, newest first."""
    query = {"transaction": transaction_id, "page_size": str(limit), "page_token": after}
    page = ask(url or order_url(home), "GET", "/v1/transactions/actions", params=query)
    answer(page, as_json, lambda: _paged(_actions_table(page["actions"]), page))


def _do(verb: str, base: str, transaction_id: str, body: dict[str, str], key: str, as_json: bool) -> None:
    from libs.runtime.clock import Ids, SystemClock

    headers = {"Idempotency-Key": key or Ids(SystemClock()).new("cli")}
    done = ask(base, "POST", f"{_path(transaction_id)}/{verb}", json=body, headers=headers)
    answer(done, as_json, lambda: _story(done["transaction"], [done["action"]]))


def _path(transaction_id: str) -> str:
    from urllib.parse import quote

    return f"/v1/transactions/{quote(transaction_id)}"


def _table(transactions: list[dict[str, Any]]) -> "RenderableType":
    from rich.table import Table

    table = Table("transaction", "style", "status", "for", "waits for", "may be skipped")
    for one in transactions:
        waits = one["reason"] or one["waits_for"]
        shown = waits if len(waits) <= REASON_LETTERS_SHOWN else f"{waits[:REASON_LETTERS_SHOWN]}…"
        age, steps = f"{one['age_seconds']:.0f} s", ", ".join(one["skippable"])
        table.add_row(one["transaction_id"], one["style"], one["status"], age, shown, steps)
    return table


def _actions_table(done: list[dict[str, Any]]) -> "RenderableType":
    from rich.table import Table

    table = Table("time", "transaction", "what", "who", "why", "proof", "outcome")
    for one in done:
        what = f"{one['verb']} {one['step']}".strip()
        table.add_row(one["at"][:19], one["transaction_id"], what, one["by"], one["why"], one["proof"], one["outcome"])
    return table


def _story(transaction: dict[str, Any], done: list[dict[str, Any]]) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_table([transaction])]
    if transaction["waits_for"]:
        parts.append(Text(f"waits for {transaction['waits_for']}", "yellow"))
    if done:
        parts.append(_actions_table(done))
    return Group(*parts)


def _paged(table: "RenderableType", page: dict[str, Any]) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    token = page["next_page_token"]
    return Group(table, Text(f"more: --after {token}")) if token else table
