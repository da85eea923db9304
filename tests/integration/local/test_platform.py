"""A whole instance: real services, kept alive, broken, mended, stopped."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import httpx
import pytest

from dockyard.local import state
from dockyard.local.home import Home
from dockyard.local.options import Options
from dockyard.local.platform import Platform
from dockyard.local.ports import is_free
from dockyard.local.problems import EnvironmentProblem
from dockyard.local.processes import Identity, gone, identify, is_alive
from dockyard.local.services import NAMES, free_offset
from dockyard.local.status import take
from dockyard.local.waiting import wait_until
from libs.kernel.errors import NotFound
from libs.runtime.clock import SystemClock
from tests.conftest import StartPlatform, drop_databases

CLOCK = SystemClock()
PSP_ONLY = Options(services=("psp",))


@pytest.fixture(scope="module")
def whole(start_platform: StartPlatform) -> Platform:
    return start_platform(Options())


@pytest.fixture(scope="module")
def own(server_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """An instance with servers of its own. A test that needs it up calls `up`, which costs nothing when it is."""
    platform = Platform.open(server_directory / tmp_path_factory.mktemp("own").name)
    platform.up(Options(port_offset=free_offset(18_000), services=("psp",)))
    yield platform
    platform.down()


@pytest.fixture
def alone(server_directory: Path, postgres_server: str, redis_server: str) -> Iterator[tuple[Platform, Options]]:
    """An instance on the session's servers that is not started yet, and how to start it."""
    platform = Platform.open(server_directory / f"alone-{secrets.token_hex(4)}")
    yield platform, Options(free_offset(19_500), ("psp",), postgres_url=postgres_server, redis_url=redis_server)
    platform.down()
    asyncio.run(drop_databases(postgres_server, platform.database_urls.values()))


def processes(platform: Platform) -> list[Identity]:
    found = platform.state
    assert found.supervisor is not None
    return [found.supervisor, *(one.process for one in found.running.values() if one.process)]


def test_every_service_is_ready_and_has_its_own_database(whole: Platform) -> None:
    for name in NAMES:
        assert httpx.get(f"{whole.urls[name]}/readyz").status_code == 200
        assert whole.running(name).phase == "ready"
    assert len(set(whole.database_urls.values())) == len(NAMES)


def test_a_killed_service_comes_back_on_its_port_and_it_is_logged(whole: Platform) -> None:
    killed = whole.kill("payment")
    assert whole.wait_ready("payment", not_pid=killed) != killed
    assert httpx.get(f"{whole.urls['payment']}/readyz").status_code == 200
    assert whole.running("payment").last_exit == "killed by SIGKILL"
    log = whole.home.log("supervisor").read_text()
    assert '"message":"restarting"' in log and '"child":"payment"' in log


def test_a_service_can_be_stopped_and_started_by_others(whole: Platform) -> None:
    before = whole.pid("shipping")
    whole.stop("shipping")
    with pytest.raises(NotFound, match="shipping is not running now"):
        whole.pid("shipping")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{whole.urls['shipping']}/healthz")
    assert whole.restart("shipping") != before
    assert whole.running("shipping").last_exit == "exit code 0"


def test_a_variable_for_once_reaches_only_the_next_process(whole: Platform) -> None:
    name, variable = "psp", "DOCKYARD_PSP_LOG_LEVEL"
    whole.restart(name, once={variable: "WARNING"})
    assert variables(whole.pid(name))[variable] == "WARNING"
    killed = whole.kill(name)
    assert variable not in variables(whole.wait_ready(name, not_pid=killed))


def test_variables_of_a_wish_stay_until_the_next(whole: Platform) -> None:
    name, variable = "psp", "DOCKYARD_PSP_LOG_LEVEL"
    whole.restart(name, environ={variable: "WARNING"})
    killed = whole.kill(name)
    assert variables(whole.wait_ready(name, not_pid=killed))[variable] == "WARNING"
    assert variable not in variables(whole.restart(name, environ={}))


def variables(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def test_the_environment_it_tells_is_the_one_it_gives(whole: Platform) -> None:
    told, given = whole.environment("order"), variables(whole.pid("order"))
    assert told and told.items() <= given.items()
    assert "DOCKYARD_POSTGRES_URL" not in given


def test_status_tells_of_every_process(whole: Platform) -> None:
    taken = take(whole, CLOCK)
    assert taken.phase == "up"
    assert taken.servers == {"postgres": "given", "redis": "given"}
    assert {one.name: one.pid for one in taken.processes} == {name: whole.pid(name) for name in NAMES}
    order = next(one for one in taken.processes if one.name == "order")
    assert order.ports == (whole.addresses["order"].http_port, whole.addresses["order"].grpc_port)
    assert order.cpu_seconds and order.rss_bytes and order.uptime_seconds > 0


def test_another_start_of_the_same_home_finds_it_up(whole: Platform) -> None:
    again = Platform.open(whole.home.path)
    assert again.up(Options()) is False
    with pytest.raises(EnvironmentProblem, match="is already up with port offset"):
        again.up(Options(port_offset=1))


def test_what_was_not_started_is_not_found(whole: Platform) -> None:
    with pytest.raises(NotFound, match="postgres is not part of what runs in"):
        whole.pid("postgres")


async def test_an_instance_keeps_its_data_ports_and_passwords_and_leaves_no_process(own: Platform) -> None:
    own.up(PSP_ONLY)
    first, running = own.state, processes(own)
    assert len(running) == 4
    assert own.home.state.stat().st_mode & 0o777 == 0o600
    connection = await asyncpg.connect(own.database_urls["psp"])
    await connection.execute("CREATE TABLE keepsake ()")
    await connection.close()

    assert own.down()
    assert not any(map(is_alive, running))
    assert not own.down(), "nothing is left to stop"

    assert own.up(PSP_ONLY)
    assert own.state.kept == first.kept
    connection = await asyncpg.connect(own.database_urls["psp"])
    assert await connection.fetchval("SELECT to_regclass('keepsake') IS NOT NULL")
    await connection.close()


def test_two_instances_run_side_by_side(own: Platform, alone: tuple[Platform, Options]) -> None:
    other, options = alone
    own.up(PSP_ONLY)
    assert other.up(options)
    assert take(own, CLOCK).servers == {"postgres": "ours", "redis": "ours"}
    assert take(other, CLOCK).servers == {"postgres": "given", "redis": "given"}
    other.down()
    assert all(map(is_alive, processes(own)))
    assert httpx.get(f"{own.urls['psp']}/readyz").status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_nothing_outlives_a_supervisor_that_is_killed_and_the_next_start_works(own: Platform) -> None:
    own.up(PSP_ONLY)
    running = processes(own)
    os.kill(running[0].pid, signal.SIGKILL)
    assert gone(running, CLOCK, seconds=15) == []
    assert take(own, CLOCK).phase == "crashed"
    assert own.up(PSP_ONLY)
    assert take(own, CLOCK).phase == "up"


def test_servers_that_die_come_back_with_their_data(own: Platform) -> None:
    own.up(PSP_ONLY)
    for name in ("redis", "postgres"):
        killed = own.kill(name)
        own.wait_ready(name, not_pid=killed)
    ready = f"{own.urls['psp']}/readyz"
    assert wait_until(lambda: httpx.get(ready).status_code == 200, CLOCK, seconds=15)


def test_down_ends_what_a_dead_supervisor_left_and_nobody_else(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    left = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    stranger = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        recorded = state.State(phase="up")
        for name, process, birth in (("order", left, None), ("payment", stranger, "before it was somebody else's")):
            known = identify(process.pid)
            assert known is not None
            identity = Identity(process.pid, birth or known.birth)
            recorded = recorded.with_running(name, state.Running("ready", identity))
        state.save(home, recorded)
        assert Platform.open(home.path).down()
        assert left.wait(10) == -signal.SIGKILL
        assert stranger.poll() is None
        assert state.load(home).phase == "down"
    finally:
        for process in (left, stranger):
            process.kill()
            process.wait()


def test_a_tethered_instance_ends_with_its_starter(alone: tuple[Platform, Options]) -> None:
    platform, options = alone
    fields = {name: getattr(options, name) for name in ("port_offset", "services", "postgres_url", "redis_url")}
    starter = f"""
import signal
from pathlib import Path
from dockyard.local.options import Options
from dockyard.local.platform import Platform
platform = Platform.open(Path({str(platform.home.path)!r}))
platform.up(Options(**{fields!r}), tethered=True)
print("up", flush=True)
signal.pause()
"""
    process = subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
    running = processes(platform)
    process.kill()
    process.wait()
    assert gone(running, CLOCK, seconds=15) == []
    assert wait_until(lambda: platform.state.phase == "down", CLOCK, seconds=5)


def test_a_service_that_cannot_start_fails_the_start_and_leaves_nothing(alone: tuple[Platform, Options]) -> None:
    platform, options = alone
    with pytest.raises(EnvironmentProblem, match="DOCKYARD_PSP_COLOUR is not a setting of this service"):
        platform.up(replace(options, environ={"psp": {"DOCKYARD_PSP_COLOUR": "blue"}}))
    assert platform.state.phase == "down"
    assert platform.state.running == {}
    assert all(is_free(port) for port in platform.services["psp"].ports)
