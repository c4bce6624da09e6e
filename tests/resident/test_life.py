"""Start, reload, stop, idle exit, and what systemd passes and hears."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eic_agent import client
from eic_agent.resident.listener import Listener, NoSocket
from tests.resident.conftest import StartAgent
from tests.resident.process import Agent, answer_of, everything, request, send, wait_until

# -- the path ------------------------------------------------------------------------------------


def test_a_path_where_an_agent_listens_is_left_alone(directory: Path, start: StartAgent) -> None:
    first = start()
    second = Agent(directory)
    assert second.ends() == 1
    assert "another agent listens there" in second.errors()
    assert first.ask("echo")[0] == b"A"


def test_an_agent_too_busy_to_accept_is_an_agent(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(directory / "agent.sock"))
        listener.listen(0)
        waiting.connect(str(directory / "agent.sock"))
        agent = Agent(directory)
        assert agent.ends() == 1
        assert "another agent listens there" in agent.errors()


def test_a_path_where_something_else_lies_is_left_alone(directory: Path) -> None:
    (directory / "agent.sock").write_text("precious")
    agent = Agent(directory)
    assert agent.ends() == 1
    assert "something else" in agent.errors()
    assert (directory / "agent.sock").read_text() == "precious"


def test_only_the_own_path_is_removed_at_the_end(start: StartAgent) -> None:
    agent = start()
    agent.path.rename(agent.path.with_suffix(".moved"))
    agent.path.write_text("another's")
    agent.signal(signal.SIGTERM)
    assert agent.ends() == 0
    assert agent.path.read_text() == "another's"


@pytest.mark.parametrize("name", ["none/agent.sock", "file/agent.sock", "x" * 200])
def test_a_path_that_cannot_be_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NoSocket, match=f"cannot listen at {tmp_path / name}"):
        Listener.at(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_path_that_exists_leads_to_the_agent(directory: Path) -> None:
    agent = Agent(directory)
    try:
        wait_until(agent.path.exists, "for the path")
        agent.connect().close()
    finally:
        agent.kill()


# -- stop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_answers_in_flight_are_finished_before_the_end(start: StartAgent, number: int) -> None:
    agent = start(limits={"threads": 1})
    with agent.connect() as running, agent.connect() as waiting, agent.connect() as sending:
        send(running, request(b"sleep:0.7"))
        send(waiting, request())
        for connection in (running, waiting, sending):
            assert connection.recv(1) == client.GREETING
        agent.signal(number)
        wait_until(lambda: not agent.path.exists(), "for the path to be removed")
        send(sending, request())
        for connection in (running, waiting, sending):
            assert everything(connection)[:1] == client.DECIDED
    assert agent.ends() == 0


def test_who_had_connected_before_the_stop_is_answered(start: StartAgent) -> None:
    agent = start()
    agent.signal(signal.SIGSTOP)
    with agent.connect() as connection:
        send(connection, request())
        agent.signal(signal.SIGTERM)
        agent.signal(signal.SIGCONT)
        assert answer_of(connection)[0] == b"A"
    assert agent.ends() == 0


def test_a_stop_does_not_wait_for_ever(start: StartAgent) -> None:
    agent = start(deadline_s=0.2, limits={"request_s": 0.2, "answer_s": 0.2})
    with agent.connect() as connection:
        send(connection, request(b"hang"))
        assert connection.recv(1) == client.GREETING
        agent.signal(signal.SIGTERM)
        assert agent.ends() == 0


def test_signals_of_all_kinds_lose_no_answer(start: StartAgent) -> None:
    agent = start()
    for _ in range(50):
        agent.signal(signal.SIGHUP)
        assert agent.ask("sleep:0.002")[0] == b"A"


# -- idle exit -----------------------------------------------------------------------------------


def test_leaves_when_idle(start: StartAgent) -> None:
    agent = start(idle_exit_s=0.3)
    assert agent.ends() == 0
    assert not agent.path.exists()


def test_is_not_idle_while_a_lookup_runs(start: StartAgent) -> None:
    agent = start(idle_exit_s=0.3)
    with agent.connect() as connection:
        send(connection, request(b"sleep:1.5"))
        time.sleep(0.8)
        assert agent.path.exists()
        assert answer_of(connection)[0] == b"A"
    assert agent.ends() == 0


def test_who_connects_at_the_last_moment_is_answered(start: StartAgent) -> None:
    """Idle for long when it wakes up, and a connection waits: so it was in the backlog before."""
    agent = start(idle_exit_s=0.5)
    agent.signal(signal.SIGSTOP)
    with agent.connect() as connection:
        send(connection, request())
        time.sleep(0.7)
        agent.signal(signal.SIGCONT)
        assert answer_of(connection)[0] == b"A"
    assert agent.ends() == 0


# -- reload --------------------------------------------------------------------------------------


def test_a_reload_takes_the_new_configuration(start: StartAgent) -> None:
    agent = start(deadline_s=1.0)
    agent.configure(deadline_s=0.5)
    assert agent.ask("echo")[1].split()[-1] == b"1000"
    agent.signal(signal.SIGHUP)
    wait_until(lambda: agent.ask("echo")[1].split()[-1] == b"500", "for the reload")
    assert agent.status()["reloads"] == 1


def test_an_invalid_configuration_is_what_holds_until_it_is_mended(start: StartAgent) -> None:
    agent = start(deadline_s=1.0)
    agent.config.write_text("{")
    agent.signal(signal.SIGHUP)
    wait_until(lambda: "no pushed key is granted" in agent.errors(), "for the report")
    assert "config.json: no JSON" in agent.errors()
    for _ in range(3):
        assert agent.ask("echo") == (b"U", b"invalid-config\n")
    agent.configure(deadline_s=0.5)
    wait_until(lambda: agent.ask("echo")[0] == b"A", "that it is read again, unasked")
    assert agent.errors().count("no JSON") == 1
    assert agent.errors().count("the configuration was read again") == 1


def test_a_configuration_that_is_valid_is_read_at_a_reload_only(start: StartAgent) -> None:
    agent = start(deadline_s=1.0)
    agent.config.write_text("{")
    time.sleep(1.2)
    assert agent.ask("echo")[1].split()[-1] == b"1000"


def test_a_reload_disturbs_no_lookup(start: StartAgent) -> None:
    agent = start()
    with agent.connect() as connection:
        send(connection, request(b"sleep:0.5"))
        assert connection.recv(1) == client.GREETING
        agent.signal(signal.SIGHUP)
        wait_until(lambda: agent.status()["reloads"] == 1, "for the reload")
        assert everything(connection)[:1] == client.DECIDED


# -- what systemd passes -------------------------------------------------------------------------


@pytest.fixture
def listening(directory: Path) -> Iterator[socket.socket]:
    """A socket as systemd makes it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "agent.sock"))
        listener.listen(64)
        yield listener


def test_answers_on_the_socket_passed_and_leaves_it_behind(
    start: StartAgent, listening: socket.socket
) -> None:
    agent = start(listening=listening, environment={"LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"})
    passed = {b"LISTEN_FDS", b"LISTEN_PID", b"LISTEN_FDNAMES"}
    assert not passed & set(agent.ask("environment")[1].split())
    agent.signal(signal.SIGTERM)
    assert agent.ends() == 0
    with agent.connect() as connection:  # systemd would start the next one for it
        send(connection, request())
        again = start(listening=listening, environment={"LISTEN_FDS": "1"})
        assert answer_of(connection)[0] == b"A"
        assert again.ask("echo")[0] == b"A"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "systemd passes no socket"),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, "systemd passes no socket"),
        ({"LISTEN_FDS": "2"}, "systemd passes 2 sockets"),
    ],
)
def test_anything_but_one_socket_for_us_is_refused(
    directory: Path, listening: socket.socket, environment: dict[str, str], message: str
) -> None:
    agent = Agent(directory, listening=listening, environment=environment)
    assert agent.ends() == 1
    assert message in agent.errors()


def test_a_socket_that_does_not_listen_is_refused(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        agent = Agent(directory, listening=other, environment={"LISTEN_FDS": "1"})
        assert agent.ends() == 1
    assert "no listening unix stream" in agent.errors()


# -- what systemd hears --------------------------------------------------------------------------


class Manager:
    """Reads what services notify."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        self.socket.settimeout(30)

    def next(self, *, skip: str = "WATCHDOG=1") -> str:
        while (message := self.socket.recv(4096).decode()) == skip:
            pass
        return message


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, directory: Path) -> Iterator[Manager]:
    name = f"@eic-agent-test-{os.getpid()}"
    one = Manager(name if request.param == "abstract" else str(directory / "notify"))
    with contextlib.closing(one.socket):
        yield one


def test_systemd_hears_ready_reload_and_stop(start: StartAgent, manager: Manager) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    agent = start(environment={"NOTIFY_SOCKET": manager.address})
    assert manager.next() == "READY=1"
    agent.signal(signal.SIGHUP)
    reloading, monotonic = manager.next().splitlines()
    assert reloading == "RELOADING=1"
    assert before < int(monotonic.removeprefix("MONOTONIC_USEC="))
    assert manager.next() == "READY=1"
    agent.config.write_text("{")
    agent.signal(signal.SIGHUP)
    assert manager.next().startswith("RELOADING=1")
    assert manager.next() == "READY=1"
    agent.signal(signal.SIGTERM)
    assert manager.next() == "STOPPING=1"
    assert agent.ends() == 0


def test_the_notify_socket_is_not_passed_on(start: StartAgent, manager: Manager) -> None:
    watchdog = {"WATCHDOG_USEC": "1000000", "NOTIFY_SOCKET": manager.address}
    names = start(environment=watchdog).ask("environment")[1]
    assert b"NOTIFY_SOCKET" not in names
    assert b"WATCHDOG" not in names


def test_a_manager_that_is_gone_disturbs_nobody(start: StartAgent, directory: Path) -> None:
    agent = start(environment={"NOTIFY_SOCKET": str(directory / "none")})
    assert agent.ask("echo")[0] == b"A"


def watched(manager: Manager) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}


def test_the_watchdog_hears_that_the_loop_lives(start: StartAgent, manager: Manager) -> None:
    agent = start(environment=watched(manager))
    for _ in range(10):
        assert manager.next(skip="READY=1") == "WATCHDOG=1"
    agent.signal(signal.SIGSTOP)
    empty(manager)
    manager.socket.settimeout(1)
    with pytest.raises(TimeoutError):
        manager.next(skip="")


def test_another_processs_watchdog_is_none_of_ours(start: StartAgent, manager: Manager) -> None:
    start(environment=watched(manager) | {"WATCHDOG_PID": "1"})
    assert manager.next(skip="") == "READY=1"
    manager.socket.settimeout(1)
    with pytest.raises(TimeoutError):
        manager.next(skip="")


def test_a_lookup_that_hangs_for_ever_wakes_the_watchdog(
    start: StartAgent, manager: Manager
) -> None:
    agent = start(environment=watched(manager), deadline_s=0.1, limits={"stuck_s": 0.1})
    with agent.connect() as connection:
        send(connection, request(b"hang"))

        def is_silent() -> bool:
            manager.socket.settimeout(1)
            try:
                manager.next(skip="")
            except TimeoutError:
                return True
            return False

        wait_until(is_silent, "for the notifications to end")
    assert agent.process.poll() is None


def empty(manager: Manager) -> None:
    """Read what was sent before now."""
    manager.socket.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while True:
            manager.next(skip="")


def test_reloads_leave_no_descriptor_behind(start: StartAgent) -> None:
    config = {"deadline_s": 0.2, "limits": {"stuck_s": 0.2}}
    agent = start(**config)
    before = agent.descriptors()
    for number in range(1, 11):
        agent.signal(signal.SIGHUP)
        wait_until(lambda: agent.status()["reloads"] >= number, "the reload")  # noqa: B023 - at once
    wait_until(lambda: agent.descriptors() <= before, "descriptors are given back")
    assert agent.ask("echo")[0] == b"A"
