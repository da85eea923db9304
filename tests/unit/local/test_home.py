"""Homes, what they remember, and who may enter them."""

import json
import os
from pathlib import Path

import pytest

from dockyard.local import state, wishes
from dockyard.local.account import Account, barrier_to, check_reachable
from dockyard.local.home import ROOT_HOME, Home, default_home
from dockyard.local.problems import EnvironmentProblem
from dockyard.local.processes import Identity
from dockyard.local.state import Kept, Running, State
from dockyard.local.wards import check_secrets

KEPT = Kept(port_offset=100, postgres_port=8210, postgres_password="hidden", role_passwords={"order": "hidden too"})
SOMEBODY = Account(uid=os.getuid() + 12345, gid=os.getgid() + 12345)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


def test_root_keeps_its_instance_where_services_keep_theirs() -> None:
    assert default_home({"XDG_STATE_HOME": "/somewhere"}, uid=0) == ROOT_HOME


def test_a_user_keeps_it_in_the_state_directory() -> None:
    assert default_home({"XDG_STATE_HOME": "/somewhere"}, uid=1000) == Path("/somewhere/dockyard")
    assert default_home({}, uid=1000) == Path.home() / ".local/state/dockyard"
    assert default_home({"XDG_STATE_HOME": "relative"}, uid=1000) == Path.home() / ".local/state/dockyard"


def test_a_home_in_a_missing_directory_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="nowhere does not exist: create it, or choose another with --home"):
        Home(tmp_path / "nowhere" / "home").create()


def test_a_home_that_is_a_file_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "home"):
        with pytest.raises(EnvironmentProblem, match="is not a directory: choose another with --home"):
            Home(path).create()
        with pytest.raises(EnvironmentProblem, match="is not a directory: choose another with --home"):
            state.load(Home(path))


def test_only_one_holds_a_home_until_it_lets_go(home: Home) -> None:
    with home.held() as first:
        assert first
        with home.held() as second:
            assert not second
    with home.held() as third:
        assert third


def test_what_is_remembered_is_remembered_and_nobody_else_may_read_it(home: Home) -> None:
    saved = State(kept=KEPT, phase="up").with_running("order", Running("ready", Identity(17, "born"), restarts=2))
    state.save(home, saved)
    assert state.load(home) == saved
    assert home.state.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.path.iterdir() if "state" in path.name] == ["state.json"]


def test_a_stopped_instance_keeps_its_passwords_and_forgets_its_processes() -> None:
    stopped = State(kept=KEPT, phase="up").with_running("order", Running("ready")).stopped()
    assert stopped.kept == KEPT
    assert (stopped.phase, stopped.running, stopped.supervisor) == ("down", {}, None)


def test_secrets_do_not_show_when_printed() -> None:
    shown = repr(State(kept=KEPT, redis_url="redis://:hidden@h", database_urls={"order": "postgresql://u:hidden@h"}))
    assert "hidden" not in shown


def test_a_new_offset_moves_the_servers_too() -> None:
    assert KEPT.at_offset(100) is KEPT
    moved = KEPT.at_offset(200)
    assert (moved.port_offset, moved.postgres_port, moved.postgres_password) == (200, 0, "hidden")


def test_a_fresh_home_remembers_nothing(tmp_path: Path) -> None:
    assert state.load(Home(tmp_path / "not yet")) == State()


def test_a_damaged_state_is_one_clear_sentence(home: Home) -> None:
    home.state.write_text(json.dumps({"format": "x"}))
    with pytest.raises(EnvironmentProblem, match=r"state.json is damaged .* restore it or choose another --home"):
        state.load(home)


def test_data_without_its_passwords_is_one_clear_sentence(home: Home) -> None:
    home.postgres.mkdir()
    (home.postgres / "PG_VERSION").write_text("15\n")
    with pytest.raises(EnvironmentProblem, match="has its passwords, is gone: restore it or choose another --home"):
        check_secrets(home, Kept())
    check_secrets(home, KEPT)


def test_wishes_are_read_back_and_end_with_the_run(home: Home) -> None:
    wish = wishes.Wish(serial=1, wanted=True, once={"DOCKYARD_ORDER_FAILPOINT": "saga.started"})
    wishes.save(home, {"order": wish})
    assert wishes.load(home) == {"order": wish}
    wishes.forget(home)
    assert wishes.load(home) == {}


def test_the_servers_account_is_told_which_directory_is_closed_to_it(tmp_path: Path) -> None:
    way = tmp_path / "open" / "closed" / "data"
    way.mkdir(parents=True)
    closed = tmp_path / "open" / "closed"
    closed.chmod(0o700)
    outermost = barrier_to(way, SOMEBODY)
    assert outermost is not None and closed.is_relative_to(outermost)
    with pytest.raises(EnvironmentProblem, match=rf"may not enter {outermost}: .* --home, or allow it with `chmod"):
        check_reachable(way, SOMEBODY)


def test_an_account_enters_by_the_bit_that_is_about_it(tmp_path: Path) -> None:
    found = tmp_path.stat()
    tmp_path.chmod(0o701)
    assert SOMEBODY.may_enter(tmp_path)
    assert Account(found.st_uid, SOMEBODY.gid).may_enter(tmp_path)
    assert not Account(SOMEBODY.uid, found.st_gid).may_enter(tmp_path)
    tmp_path.chmod(0o710)
    assert Account(SOMEBODY.uid, found.st_gid).may_enter(tmp_path)
    assert not SOMEBODY.may_enter(tmp_path)
    tmp_path.chmod(0o700)


def test_servers_of_our_own_account_get_everywhere_we_get(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert barrier_to(tmp_path / "data", None) is None
