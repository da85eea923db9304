"""The lines of code of a style: the table is true, and lines are counted as it says."""

from pathlib import Path

import pytest

from dockyard.compare.code import Piece, count, lines_of, missing, pieces
from dockyard.compare.plan import STYLES

SOURCE = '''"""What it is.

In more words."""

import os  # for nothing

# A comment.
LIMIT: int = 3


@decorated
def wait(
    seconds: float,
) -> str:
    """Waits."""

    # Why.
    return """a text
    of two lines"""


TABLE = {
    "a": 1,
}
'''


def test_everything_in_the_table_is_in_the_code() -> None:
    assert missing() == []


def test_nothing_is_counted_twice_for_a_style() -> None:
    named = [(piece.path, piece.name) for piece in pieces()]
    whole = {path for path, name in named if not name}

    assert len(set(named)) == len(named)
    assert not {path for path, name in named if name} & whole


@pytest.mark.parametrize("style", STYLES)
def test_each_style_has_code_of_its_own(style: str) -> None:
    own, _ = lines_of(style)

    assert own > 0


def test_blank_lines_comments_and_docstrings_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(SOURCE)

    def lines(name: str) -> int:
        return count(Piece("one.py", name, frozenset()), tmp_path)

    assert lines("wait") == 6
    assert lines("LIMIT") == 1
    assert lines("TABLE") == 3
    assert lines("") == 11
    assert lines("nobody") == 0
    assert count(Piece("two.py", "", frozenset()), tmp_path) == 0
