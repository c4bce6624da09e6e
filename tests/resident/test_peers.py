"""Which peers are sshd's own, by what the kernel says of processes."""

from pathlib import Path

import pytest

from eic_agent.resident.connection import Peer, Standing
from eic_agent.resident.peers import Peers

NOBODY = 65534
CLIENTS = frozenset({NOBODY})
# name, parent, user id; sshd is 100, and answers the keys by 200 as nobody
PROCESSES = {
    1: ("systemd", 0, 0),
    100: ("sshd", 1, 0),
    101: ("sshd-session", 100, 0),
    200: ("python3", 101, NOBODY),
    201: ("python3", 200, NOBODY),  # beside a chained command
    202: ("python3", 201, NOBODY),
    300: ("daemon", 1, NOBODY),
    301: ("sshd", 300, NOBODY),  # calls itself so
    302: ("python3", 301, NOBODY),
    400: ("sshd-session", 101, NOBODY),  # a login of nobody's
    401: ("python3", 400, NOBODY),
    500: ("cron", 1, 0),
    501: ("python3", 500, NOBODY),
}


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for pid, (name, parent, uid) in PROCESSES.items():
        (tmp_path / str(pid)).mkdir()
        status = f"Name:\t{name}\nPid:\t{pid}\nPPid:\t{parent}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"
        (tmp_path / str(pid) / "status").write_text(status)
    return tmp_path


@pytest.mark.parametrize("pid", [200, 201])
def test_a_child_of_sshds_and_its_child_are_sshds(proc: Path, pid: int) -> None:
    assert Peers(proc).standing(Peer(pid, NOBODY), CLIENTS) is Standing.SSHD


@pytest.mark.parametrize("pid", [202, 300, 301, 302, 401, 501, 999])
def test_others_of_a_clients_user_are_not(proc: Path, pid: int) -> None:
    assert Peers(proc).standing(Peer(pid, NOBODY), CLIENTS) is Standing.OTHER


def test_root_needs_no_look_and_a_user_who_is_no_client_gets_none(proc: Path) -> None:
    assert Peers(proc).standing(Peer(999, 0), CLIENTS) is Standing.SSHD
    assert Peers(proc).standing(Peer(200, 1000), CLIENTS) is Standing.REFUSED


def test_where_processes_are_hidden_it_cannot_be_told(tmp_path: Path) -> None:
    assert Peers(tmp_path).standing(Peer(200, NOBODY), CLIENTS) is Standing.UNTOLD


def test_the_kernel_is_read_as_it_is() -> None:
    process = Peers()._process(1)
    assert process is not None
    assert process[1:] == (0, 0)
