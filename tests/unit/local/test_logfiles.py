"""Logs stay bounded, and are read from their end."""

import json
from pathlib import Path

import pytest

from dockyard.local.logfiles import BLOCK_BYTES, Follower, bound, shown, tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "order.log"


def test_a_log_that_is_too_long_is_turned_over_under_its_writer(log: Path) -> None:
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a" * 100 + b"\n")
        bound(log.parent, bytes_max=100)
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"
    assert log.with_name("order.log.1").read_bytes() == b"a" * 100 + b"\n"


def test_at_most_two_logs_are_kept(log: Path) -> None:
    for letter in "abc":
        log.write_text(letter * 11)
        bound(log.parent, bytes_max=10)
    assert {path.name: path.read_text() for path in log.parent.iterdir()} == {"order.log": "", "order.log.1": "c" * 11}


def test_a_short_log_is_left_alone(log: Path) -> None:
    log.write_text("short\n")
    bound(log.parent, bytes_max=100)
    assert [path.name for path in log.parent.iterdir()] == ["order.log"]


@pytest.mark.parametrize("wanted", [0, 1, 3, 5000, 9000])
def test_the_tail_is_the_last_lines_however_long_the_log_is(log: Path, wanted: int) -> None:
    lines = [f"line {number} {'x' * 30}" for number in range(5000)]
    log.write_text("\n".join(lines) + "\n")
    assert log.stat().st_size > 2 * BLOCK_BYTES
    assert tail(log, wanted) == (lines[-wanted:] if wanted else [])


def test_the_tail_of_an_empty_log_is_empty(log: Path) -> None:
    log.touch()
    assert tail(log, 10) == []


def test_a_follower_sees_whole_lines_once_also_after_the_log_was_turned_over(log: Path) -> None:
    log.write_text("before\n")
    follower = Follower(log)
    with log.open("ab", buffering=0) as writer:
        writer.write(b"one\ntw")
        assert list(follower.added()) == ["one"]
        writer.write(b"o\n")
        assert list(follower.added()) == ["two"]
        bound(log.parent, bytes_max=1)
        writer.write(b"new\n")
        assert list(follower.added()) == ["new"]
        assert list(follower.added()) == []


def test_people_see_a_sentence_and_programs_an_object() -> None:
    line = json.dumps(
        {
            "ts": "2026-01-02T03:04:05.678+00:00",
            "level": "INFO",
            "service": "order",
            "logger": "l",
            "message": "ready",
            "pid": 17,
        }
    )
    assert shown(line, as_json=False) == "03:04:05.678 INFO ready pid=17"
    assert shown(line, as_json=True) == line


def test_a_line_that_is_not_json_is_still_an_object_for_programs() -> None:
    assert shown("Segmentation fault", as_json=False) == "Segmentation fault"
    assert json.loads(shown("Segmentation fault", as_json=True)) == {"message": "Segmentation fault"}
