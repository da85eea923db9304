"""The house's papers: pins, targets, decisions, links. What they say must be so."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.architecture.sources import ROOT, defined, files, text_files

THIS_FILE = "tests/architecture/test_house.py"
ADR_HEADINGS = ["Context", "Options", "Decision", "Costs", "Revisit when"]
# Where packages come from is the machine's business (its pip configuration), never the repository's.
REGISTRIES = re.compile(
    r"pypi\.org|pythonhosted\.org|/simple/|registry\.npmjs|proxy\.golang\.org|crates\.io"
    r"|--(extra-)?index-url\s*[=h]|--find-links\s*[=/h]|--trusted-host",
)
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|gh[pousr]_[A-Za-z0-9]{36}|xox[abprs]-[A-Za-z0-9-]{10,}"
    r"|[sr]k_live_[A-Za-z0-9]{16,}|eyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.|AIza[0-9A-Za-z_-]{35}",
)
LINK = re.compile(r"\[[^\]]+\]\((?!https?://|#|mailto:)(?P<path>[^)#\s]+)(#[^)]*)?\)")
# `libs/kernel/errors.py`, `libs/kernel/`, `libs/kernel/errors.py::Refused`
MENTION = re.compile(
    r"`(?P<path>(?:libs|services|dockyard|proto|tests|docs|requirements|deploy|k8s)/[\w./-]*?)(?:::(?P<name>[\w.]+))?`"
)


def markdown() -> Iterator[tuple[Path, str]]:
    for path in files():
        if path.suffix == ".md":
            yield path, path.read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    """Package to version, of a requirements file; every entry must be pinned and hashed."""
    text = (ROOT / "requirements" / name).read_text().replace("\\\n", " ")
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            match = re.match(r"(?P<name>[\w.-]+)==(?P<version>[\w.+!-]+)(?P<rest>.*)", line)
            assert match, f"requirements/{name} does not pin {line}"
            assert "--hash=sha256:" in match["rest"], f"requirements/{name} does not hash {match['name']}"
            found[canonicalize_name(match["name"])] = match["version"]
    return found


def wanted(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return [Requirement(text) for one in lists for text in one]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize(("name", "extras"), [("runtime.txt", ()), ("dev.txt", ("local", "dev"))])
def test_requirements_pin_and_hash_what_the_project_asks_for(name: str, extras: tuple[str, ...]) -> None:
    pinned = pins(name)
    for requirement in wanted(*extras):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"requirements/{name} lacks {requirement.name}: run make lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} but {version}: run make lock"


def test_production_runs_the_versions_that_were_tested() -> None:
    runtime, dev = pins("runtime.txt"), pins("dev.txt")
    assert {name: dev.get(name) for name in runtime} == runtime


def test_make_alone_lists_every_target() -> None:
    listed = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"^  make ([a-z-]+) ", listed.stdout, re.MULTILINE)) == targets()


def test_every_make_target_that_is_written_about_exists() -> None:
    said = {
        (path.name, target)
        for path, text in markdown()
        for code in re.findall(r"```sh\n.*?```|`[^`\n]+`", text, re.DOTALL)
        for target in re.findall(r"(?:^`|\n)make ([a-z][a-z-]*)", code)
    }
    assert ("README.md", "demo") in said
    assert [(name, target) for name, target in sorted(said) if target not in targets()] == []


def test_ci_runs_the_targets_that_people_run() -> None:
    stages = re.search(r"^for stage in (.+); do$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert stages
    assert stages[1].split() == ["lint", "types", "arch", "proto-check", "test"]
    assert set(stages[1].split()) <= targets()


def test_decisions_are_numbered_without_gaps() -> None:
    names = sorted(path.name for path in (ROOT / "docs/adr").glob("*.md"))
    assert names
    assert [name[:5] for name in names] == [f"{number:04}-" for number in range(1, len(names) + 1)]


def test_every_decision_has_the_five_headings() -> None:
    for path in sorted((ROOT / "docs/adr").glob("*.md")):
        text = path.read_text()
        assert re.match(rf"# {int(path.name[:4])}\. \S", text), f"{path.name} does not open with its number and title"
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ADR_HEADINGS, path.name
        sections = re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]
        assert all(section.strip() for section in sections), f"{path.name} has an empty section"


def test_links_between_documents_lead_somewhere() -> None:
    dead = [
        f"{path.relative_to(ROOT)}: {match['path']}"
        for path, text in markdown()
        for match in LINK.finditer(text)
        if not (path.parent / match["path"]).exists()
    ]
    assert dead == []


def test_documents_name_files_and_functions_that_exist() -> None:
    wrong = []
    for path, text in markdown():
        for match in MENTION.finditer(text):
            target = ROOT / match["path"]
            known = target.exists() and (not match["name"] or match["name"] in defined(target))
            if not known:
                wrong.append(f"{path.relative_to(ROOT)}: {match[0]}")
    assert wrong == []


def test_nothing_names_a_package_registry() -> None:
    found = [(path, REGISTRIES.findall(text)) for path, text in text_files() if path != THIS_FILE]
    assert [path for path, hits in found if hits] == []


def test_nothing_looks_like_a_secret() -> None:
    assert [path for path, text in text_files() if path != THIS_FILE and SECRETS.search(text)] == []


@pytest.mark.parametrize(
    "secret",
    ["AKIA" + "Z" * 16, "-----BEGIN RSA PRIVATE KEY-----", "ghp_" + "a" * 36, "sk_live_" + "b" * 24],
)
def test_a_secret_would_be_seen(secret: str) -> None:
    assert SECRETS.search(f"token = {secret!r}")


@pytest.mark.parametrize("line", ["--index-url https://x", "https://pypi.org/p/x", "--find-links /wheels"])
def test_a_registry_would_be_seen(line: str) -> None:
    assert REGISTRIES.search(line)


def test_every_contract_has_its_stubs_beside_it() -> None:
    protos = list((ROOT / "proto").rglob("*.proto"))
    assert protos
    for proto in protos:
        for suffix in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi"):
            assert proto.with_name(proto.stem + suffix).is_file(), f"{proto.relative_to(ROOT)}: run make proto"
