"""Who is answered, with what, and what a peer can cost."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eic_agent import client
from tests.resident.conftest import StartAgent
from tests.resident.process import (
    FINGERPRINT,
    PATIENCE_S,
    Agent,
    answer_of,
    everything,
    request,
    send,
    wait_until,
)
from tests.support import not_as_root, root

NOBODY = 65534


def test_answers_user_fingerprint_pid_and_time_as_sent(start: StartAgent) -> None:
    with start().connect() as connection:
        send(connection, request(b"echo", pid=b"7", ms=b"1234"))
        assert answer_of(connection) == (b"A", f"echo {FINGERPRINT} 7 1234\n".encode())


def test_an_empty_fingerprint_and_no_pid_are_none(start: StartAgent) -> None:
    with start().connect() as connection:
        send(connection, request(b"echo", fingerprint=b"", pid=b"0"))
        assert answer_of(connection) == (b"A", b"echo None None 3900\n")


def test_no_more_time_is_given_than_the_configuration_allows(start: StartAgent) -> None:
    with start(deadline_s=1.5).connect() as connection:
        send(connection, request(ms=b"9" * 10))
        assert answer_of(connection)[1].split()[-1] == b"1500"


def test_undecided_is_told_apart(start: StartAgent) -> None:
    expected = (b"U", b"metadata-unavailable: nobody there\n")
    assert start().ask("undecided") == expected


def test_a_user_name_of_any_bytes_is_a_user_name(start: StartAgent) -> None:
    verdict, payload = start().ask("\udcff\u00e9\n")
    assert verdict == b"A"
    assert payload.startswith(b"\\udcff\xc3\xa9\n")


def test_the_greeting_comes_before_the_request_is_sent(start: StartAgent) -> None:
    with start().connect() as connection:
        assert connection.recv(10) == client.GREETING


def test_the_greeting_comes_while_every_thread_is_busy(start: StartAgent) -> None:
    agent = start(limits={"threads": 1})
    with agent.connect() as busy, agent.connect() as second:
        send(busy, request(b"sleep:1"))
        send(second, request(b"sleep:0"))
        assert second.recv(1) == client.GREETING
        assert everything(second)[:1] == client.DECIDED
        assert answer_of(busy)[0] == b"A"


def test_requests_come_in_any_pieces(start: StartAgent) -> None:
    content = request()
    with start().connect() as connection:
        for byte in len(content).to_bytes(2, "big") + content:
            connection.sendall(bytes([byte]))
        assert answer_of(connection)[0] == b"A"


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0",
        b"\0\x04EIC1",
        b"\0\x10GET / HTTP/1.1\r\n",
        b"\xff\xff" + b"x" * 5000,
        b"\0\x02xxmore",
        (lambda r: len(r).to_bytes(2, "big") + r)(request(pid=b"-1")),
        (lambda r: len(r).to_bytes(2, "big") + r)(request(pid=b"4194305")),
        (lambda r: len(r).to_bytes(2, "big") + r)(request(fingerprint=b"SHA256:short")),
        (lambda r: len(r).to_bytes(2, "big") + r)(request(fingerprint=b"MD5:" + b"x" * 47)),
        (lambda r: len(r).to_bytes(2, "big") + r)(request(fingerprint=b"root by arn:aws:x")),
        (lambda r: len(r).to_bytes(2, "big") + r)(request(ms=b"")),
        (lambda r: len(r).to_bytes(2, "big") + r)(request(ms=b" 5")),
        (lambda r: len(r).to_bytes(2, "big") + r)(request(ms=b"9" * 400)),
        (lambda r: len(r).to_bytes(2, "big") + r)(request(pid=b"9" * 400)),
        (lambda r: len(r).to_bytes(2, "big") + r)(request() + b"\0"),
        (lambda r: len(r).to_bytes(2, "big") + r)(request().replace(b"EIC1", b"EIC2")),
    ],
)
def test_what_is_no_request_gets_no_answer(start: StartAgent, data: bytes) -> None:
    agent = start()
    with agent.connect() as connection:
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(data)
        assert everything(connection) == client.GREETING
    assert agent.status()["malformed"] == 1
    assert agent.ask("echo")[0] == b"A"


def test_who_is_silent_or_drips_is_cut_off_while_others_are_answered(start: StartAgent) -> None:
    agent = start()
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(agent.connect()) for _ in range(20)]
        dripping = peers[:10]
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.1):
                for peer in dripping:
                    with contextlib.suppress(OSError):
                        peer.sendall(b"\0")

        # A length of 0 followed by more would be malformed at once.
        for peer in dripping:
            peer.sendall(b"\x0f\xff")
        dripper = threading.Thread(target=drip)
        dripper.start()
        try:
            assert agent.ask("echo")[0] == b"A"
            for peer in peers:
                assert everything(peer) == client.GREETING
        finally:
            ended.set()
            dripper.join()
    status = agent.status()
    assert (status["unfinished"], status["malformed"], status["connections"]) == (20, 0, 1)


def test_who_closes_early_costs_nothing(start: StartAgent) -> None:
    agent = start()
    for content in (b"", b"\0", b"\0\x20EIC1"):
        with agent.connect() as connection:
            connection.sendall(content)
    with agent.connect() as connection:
        send(connection, request(b"sleep:0.2"))
    wait_until(lambda: agent.status()["connections"] == 1, "for the connections to be dropped")
    assert agent.status()["unfinished"] == 3


def test_who_does_not_read_costs_a_thread_for_a_second(start: StartAgent) -> None:
    agent = start(limits={"threads": 1})
    with agent.connect() as deaf:
        send(deaf, request(b"large:5000000"))
        assert agent.ask("echo")[0] == b"A"
        assert len(everything(deaf)) < 5_000_000


def occupy(agent: Agent, user: bytes) -> socket.socket:
    """A connection that is being served, not one too many because others are just leaving."""
    while True:
        connection = agent.connect()
        send(connection, request(user))
        assert connection.recv(1) == client.GREETING
        connection.settimeout(0.2)
        try:
            assert connection.recv(1) == client.UNDECIDED
        except TimeoutError:
            connection.settimeout(PATIENCE_S)
            return connection
        connection.close()


def test_over_the_bound_the_answer_is_overloaded_at_once(start: StartAgent) -> None:
    agent = start(limits={"threads": 1, "connections": 2})
    with occupy(agent, b"sleep:3") as first, occupy(agent, b"sleep:0") as second:
        for _ in range(20):
            verdict, payload = agent.ask("echo")
            assert (verdict, payload.count(b"\n")) == (b"U", 1)
            assert payload.startswith(b"overloaded: ")
        assert everything(first)[:1] == client.DECIDED
        assert everything(second)[:1] == client.DECIDED
    wait_until(lambda: agent.ask("echo")[0] == b"A", "for room")
    wait_until(lambda: agent.status().get("overloaded", 0) >= 20, "for the count")
    written = [line for line in agent.errors().splitlines() if "overloaded" in line]
    assert 1 <= len(written) < 10


def test_what_waited_past_its_end_is_overloaded(start: StartAgent) -> None:
    agent = start(limits={"threads": 1})
    with agent.connect() as busy, agent.connect() as waiting:
        send(busy, request(b"sleep:1"))
        assert busy.recv(1) == client.GREETING
        send(waiting, request(ms=b"100"))
        assert answer_of(waiting)[0] == b"U"
    assert agent.status()["overloaded"] == 1


def test_two_hundred_at_once_are_all_answered_right(start: StartAgent) -> None:
    agent = start()
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(agent.ask, [f"sleep:0.0{n:03}" for n in range(200)]))
    for n, (verdict, payload) in enumerate(answers):
        assert verdict == b"A"
        assert payload.startswith(b"sleep:0.0%03d " % n)
    status = agent.status()
    assert status["answered"] == 201
    assert status["threads"] <= 32


def test_clients_are_answered_in_processes_of_their_own(start: StartAgent) -> None:
    agent = start()

    def run_as(user: str) -> None:
        argv = [sys.executable, "-I", "-S", client.__file__, "--socket", str(agent.path), user]
        done = subprocess.run(argv, capture_output=True, check=True)
        assert done.stderr == b""
        assert done.stdout.startswith(f"{user} None {os.getpid()} ".encode())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run_as, [f"user{n}" for n in range(40)]))


def test_thousands_of_requests_leave_no_descriptor_and_no_thread(start: StartAgent) -> None:
    agent = start(limits={"threads": 4})

    def round_of_requests(_: int) -> None:
        assert agent.ask("echo")[0] == b"A"
        with agent.connect():
            pass
        with agent.connect() as connection:
            connection.sendall(b"\0\x04nope")
        with agent.connect() as connection:
            send(connection, request())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(round_of_requests, range(50)))
        wait_until(lambda: agent.status()["connections"] == 1, "for the first to be done")
        descriptors, threads = agent.descriptors(), agent.threads()
        list(pool.map(round_of_requests, range(1000)))
    wait_until(lambda: agent.status()["connections"] == 1, "for all to be done")
    wait_until(lambda: agent.descriptors() <= descriptors, "for descriptors to be closed")
    assert agent.threads() <= threads <= 5
    assert agent.status()["accepted"] > 4000


def test_a_fault_of_ours_costs_one_answer_only(start: StartAgent) -> None:
    agent = start(limits={"threads": 2})
    for _ in range(5):
        with agent.connect() as connection:
            send(connection, request(b"fail"))
            assert everything(connection) == client.GREETING
    assert agent.ask("echo")[0] == b"A"
    assert agent.status()["failed"] == 5
    assert "a fault of our own" in agent.errors()


def test_a_fault_of_ours_costs_no_answer_that_waits_behind(start: StartAgent) -> None:
    agent = start(limits={"threads": 1})
    with agent.connect() as failing, agent.connect() as waiting:
        send(failing, request(b"fail:0.5"))
        send(waiting, request())
        assert everything(failing) == client.GREETING
        assert answer_of(waiting)[0] == b"A"


# -- who may ask ---------------------------------------------------------------------------------

FOREIGN = """
import socket, sys
c = socket.socket(socket.AF_UNIX)
c.connect(sys.argv[1])
r = b"EIC1\\0echo\\0\\0001\\0001000"
try:
    c.sendall(len(r).to_bytes(2, "big") + r)
except BrokenPipeError:
    pass
got = b""
try:
    while data := c.recv(99):
        got += data
except ConnectionResetError:
    pass
print(got)
"""


def ask_as(user: int, path: Path) -> bytes:
    """What a process of that user gets from the agent."""
    argv = ["/usr/bin/python3", "-I", "-S", "-c", FOREIGN, str(path)]
    done = subprocess.run(argv, capture_output=True, check=True, user=user, cwd="/")
    return bytes(eval(done.stdout))


def test_foreign_users_are_not_answered_and_that_is_journalled_seldom(start: StartAgent) -> None:
    root()
    agent = start(clients=[NOBODY - 1])
    for _ in range(5):
        assert ask_as(NOBODY, agent.path) == b""
    assert agent.status()["refused_peers"] == 5
    assert agent.errors().count(f"user id {NOBODY}") == 1


def test_configured_users_are_answered(start: StartAgent) -> None:
    root()
    assert ask_as(NOBODY, start(clients=[NOBODY]).path).startswith(b"+A")


def ask_as_sshd(user: int, directory: Path, path: Path) -> bytes:
    """What sshd's client gets that runs as this user: its parent is root's and is called sshd."""
    shell = shutil.copy("/bin/sh", directory / "sshd")
    lookup = ["/usr/bin/python3", "-I", "-S", "-c", FOREIGN, str(path)]
    run = f'setpriv --reuid={user} --clear-groups -- "$@"; exit'
    done = subprocess.run([shell, "-c", run, "sh", *lookup], capture_output=True, check=True)
    return bytes(eval(done.stdout))


def test_a_clients_user_cannot_take_what_sshd_needs(directory: Path, start: StartAgent) -> None:
    root()
    agent = start(clients=[NOBODY], limits={"others": 2, "request_s": 30})
    hold = """
import socket, sys
held = []
for _ in range(100):
    held.append(socket.socket(socket.AF_UNIX))
    held[-1].connect(sys.argv[1])
    answer = b""
    while len(answer) < 2 and (data := held[-1].recv(2 - len(answer))):
        answer += data
        if len(held) <= 2:
            break
    print(answer, flush=True)
sys.stdin.read()
"""
    argv = ["/usr/bin/python3", "-I", "-S", "-c", hold, str(agent.path)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, user=NOBODY, cwd="/"
    ) as process:
        assert process.stdout
        lines = [process.stdout.readline().strip() for _ in range(100)]
        assert lines == ["b'+'"] * 2 + ["b'+U'"] * 98
        assert ask_as(NOBODY, agent.path).startswith(b"+U")
        assert ask_as_sshd(NOBODY, directory, agent.path).startswith(b"+A")
        assert agent.ask("echo")[0] == b"A"
    assert agent.status()["overloaded"] == 99


def test_the_agents_own_user_is_answered(directory: Path, start: StartAgent) -> None:
    root()
    os.chown(directory, NOBODY, NOBODY)
    agent = start(user=NOBODY)
    assert ask_as(NOBODY, agent.path).startswith(b"+A")
    assert ask_as(NOBODY - 1, agent.path) == b""
    assert agent.ask("echo")[0] == b"A"  # root's


def test_everybody_may_connect_to_a_path(start: StartAgent) -> None:
    assert stat.S_IMODE(start().path.stat().st_mode) == 0o666


def test_the_status_tells_counts(start: StartAgent) -> None:
    agent = start()
    for _ in range(3):
        agent.ask("echo")
    wait_until(lambda: agent.status()["answered"] == 4, "for the count")
    status = agent.status()
    assert status["accepted"] > 5
    assert status["most_connections"] >= status["connections"] >= 1
    assert status["threads"] >= 1


# -- an agent in trouble, as the client sees it --------------------------------------------------


def run_client(agent: Agent, user: str = "echo") -> str:
    argv = [sys.executable, "-I", "-S", client.__file__, "--socket", str(agent.path)]
    done = subprocess.run(
        [*not_as_root(), *argv, "--agent", "/bin/echo", user],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_killed_and_started_again_on_the_remains(directory: Path, start: StartAgent) -> None:
    agent = start(clients=[NOBODY])
    agent.kill()
    assert run_client(agent).startswith("authorized-keys echo --deadline-s ")
    assert run_client(start(clients=[NOBODY])).startswith("echo None ")


def test_killed_in_the_middle_of_a_lookup(start: StartAgent) -> None:
    agent = start(clients=[NOBODY])

    def kill_in_the_middle() -> None:
        wait_until(lambda: agent.status()["connections"] == 2, "for the lookup to arrive")
        agent.kill()

    killer = threading.Thread(target=kill_in_the_middle)
    killer.start()
    try:
        told = run_client(agent, "sleep:60")
    finally:
        killer.join()
    assert told.startswith("authorized-keys sleep:60 --deadline-s ")


def test_frozen_and_thawed(start: StartAgent) -> None:
    agent = start(clients=[NOBODY])
    agent.signal(signal.SIGSTOP)
    assert run_client(agent).startswith("authorized-keys echo --deadline-s ")
    agent.signal(signal.SIGCONT)
    assert run_client(agent).startswith("echo None ")


def test_a_socket_that_was_removed(start: StartAgent) -> None:
    agent = start(clients=[NOBODY])
    agent.path.unlink()
    assert run_client(agent).startswith("authorized-keys echo --deadline-s ")
