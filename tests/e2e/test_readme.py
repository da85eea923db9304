"""Every command of the README is run, in order, against an instance of its own; what it shows is what came out."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from dockyard.local.ports import is_free
from dockyard.local.services import SERVICES

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = re.compile(r"127\.0\.0\.1:(?P<port>[89]10\d)")
BLOCK_SECONDS_MAX = 300
# The README's demo is the real one; here it need not be as long.
DEMO_ARGUMENTS = "--orders 60"


@dataclass(frozen=True, slots=True)
class Step:
    """One block of commands, and the lines the README says it shows; `…` stands for anything."""

    line: int
    commands: str
    shown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Instance:
    """An environment in which the README's commands meet an instance of their own."""

    environ: Mapping[str, str]
    port_offset: int

    def run(self, commands: str) -> subprocess.CompletedProcess[str]:
        moved = ADDRESS.sub(lambda match: f"127.0.0.1:{int(match['port']) + self.port_offset}", commands)
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", moved],
            cwd=ROOT,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BLOCK_SECONDS_MAX,
            check=False,
        )


def steps(text: str) -> list[Step]:
    """The `sh` blocks in order, each with the `text` block that follows it directly."""
    blocks = list(BLOCK.finditer(text))
    found = []
    for number, block in enumerate(blocks):
        if block["language"] == "sh":
            following = blocks[number + 1] if number + 1 < len(blocks) else None
            shows = following is not None and following["language"] == "text"
            between = text[block.end() : following.start()] if following else ""
            shown = following["text"].splitlines() if following and shows and not between.strip() else []
            found.append(Step(text[: block.start()].count("\n") + 1, block["text"], tuple(shown)))
    return found


def missing(shown: tuple[str, ...], output: str) -> list[str]:
    """The lines that the README shows and the output lacks."""
    patterns = {line: ".*".join(re.escape(part.strip()) for part in line.strip().split("…")) for line in shown}
    return [line for line, pattern in patterns.items() if not re.search(pattern, output)]


def unused_offset() -> int:
    """An offset at which every port is free."""
    offsets = range(3000, 20_000, 500)
    return next(offset for offset in offsets if all(is_free(port + offset) for one in SERVICES for port in one.ports))


@pytest.fixture
def instance(server_directory: Path) -> Iterator[Instance]:
    binaries = Path(sys.executable).parent
    # What `make test ARGS=…` tells the makes below it is not meant for the README's.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    environ = {
        **inherited,
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "DOCKYARD_HOME": str(server_directory / "readme"),
        "ARGS": DEMO_ARGUMENTS,
    }
    started = Instance(environ, unused_offset())
    up = started.run(f"dockyard up --detach --port-offset {started.port_offset}")
    assert up.returncode == 0, up.stdout
    yield started
    down = started.run("dockyard down")
    assert down.returncode == 0, down.stdout


def test_every_command_of_the_readme_works_and_shows_what_it_says(instance: Instance) -> None:
    readme = steps((ROOT / "README.md").read_text())
    assert readme
    for step in readme:
        done = instance.run(step.commands)
        where = f"README.md:{step.line}\n{step.commands}\n{done.stdout}"
        assert done.returncode == 0, where
        assert missing(step.shown, done.stdout) == [], where


def test_a_block_goes_with_the_output_right_below_it() -> None:
    text = "# T\n```sh\none\n```\n\n```text\nfirst … line\n```\nwords\n```sh\ntwo\n```\nmore\n```text\nnot two's\n```\n"
    assert steps(text) == [Step(2, "one\n", ("first … line",)), Step(10, "two\n", ())]


def test_a_line_that_did_not_come_out_is_missing() -> None:
    assert missing(("order … confirmed",), "order ord_1 is confirmed") == []
    assert missing(("order … confirmed",), "order ord_1 is rejected") == ["order … confirmed"]
