"""The result as a table, as JSON and as a picture."""

import os
from io import StringIO
from pathlib import Path

import msgspec
from rich.console import Console

from dockyard.compare import schema
from dockyard.compare.plan import STYLES
from dockyard.compare.plot import draw
from dockyard.compare.result import Comparison
from dockyard.compare.table import shown
from tests.unit.compare.results import comparison, failing, style


def text_of(result: Comparison) -> str:
    console = Console(width=160, file=StringIO(), record=True)
    console.print(shown(result))
    return console.export_text()


def test_the_table_has_a_column_for_each_style_and_says_what_customers_see() -> None:
    text = text_of(comparison())

    assert all(name in text for name in STYLES)
    assert "charge, refund" in text and "1234.56" in text
    assert "every style that promises something kept it" in text


def test_an_honest_style_that_fails_is_named_with_what_it_broke() -> None:
    text = text_of(comparison(failing(style("tcc"))))

    assert "tcc broke its promise: G4 money-kept, G4 stock-kept, G1 abandoned" in text


def test_a_style_keeps_its_promise_only_with_and_without_faults() -> None:
    assert style("tcc").kept_its_promise
    assert not style("naive").kept_its_promise


def test_the_json_is_the_documented_schema_and_reads_back() -> None:
    result = comparison()

    encoded = msgspec.json.encode(result)

    assert msgspec.json.decode(encoded, type=Comparison) == result
    assert msgspec.json.decode(encoded)["schema"] == "dockyard.compare/1"
    assert [one["coordination"] for one in msgspec.json.decode(encoded)["styles"]] == list(STYLES)


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    draw(comparison(), tmp_path / "styles.png")

    assert (tmp_path / "styles.png").read_bytes().startswith(b"\x89PNG")


def test_the_schema_that_is_shipped_is_that_of_the_result() -> None:
    shipped = Path(schema.__file__).with_name("schema.json")
    if os.environ.get("DOCKYARD_REWRITE_TRANSCRIPTS"):
        shipped.write_bytes(schema.encoded())

    assert shipped.read_bytes() == schema.encoded()
