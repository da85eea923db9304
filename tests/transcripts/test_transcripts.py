"""Every transcript happens as it is written down; DOCKYARD_REWRITE_TRANSCRIPTS=1 writes down what happens."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.transcripts.saga_table import SagaTable
from tests.transcripts.transcript import RULER, Exchange, Interpreter, play, read, write

HERE = Path(__file__).parent
REWRITE = "DOCKYARD_REWRITE_TRANSCRIPTS"

# Who plays a transcript, by the first word of its name: saga-refused.txt
INTERPRETERS: dict[str, Callable[[], Interpreter]] = {"saga": SagaTable}

TRANSCRIPTS = sorted(HERE.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_it_happens_as_it_is_written_down(path: Path) -> None:
    written = read(path)
    happened = play(written, INTERPRETERS[path.stem.partition("-")[0]]())
    if os.environ.get(REWRITE):
        write(path, happened)
    else:
        assert happened == written, "run `make transcripts` and review the diff"


def test_there_are_transcripts() -> None:
    assert {path.stem.partition("-")[0] for path in TRANSCRIPTS} == set(INTERPRETERS)


def test_a_transcript_is_written_as_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "demo.txt"
    path.write_text("# why\nsay this\nand that\n----\nit happens\n\nsay more\n----\n")
    exchanges = read(path)
    assert exchanges == [
        Exchange(("# why",), ("say this", "and that"), ("it happens",)),
        Exchange((), ("say more",), ()),
    ]
    write(path, play(exchanges, lambda said: [line.upper() for line in said]))
    assert path.read_text() == "# why\nsay this\nand that\n----\nSAY THIS\nAND THAT\n\nsay more\n----\nSAY MORE\n"


def test_an_exchange_without_a_ruler_is_no_exchange(tmp_path: Path) -> None:
    path = tmp_path / "demo.txt"
    path.write_text("say this\n")
    with pytest.raises(AssertionError, match=RULER):
        read(path)
