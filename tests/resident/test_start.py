"""A cold start as systemd makes it: the socket is there, and who connects starts the agent.

Importing what a lookup needs takes as long as a test wants: until somebody opens a pipe.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eic_agent import client, entry
from eic_sandbox.simulator import MetadataSimulator, new_key
from tests import support
from tests.resident.process import (
    LIKE_SYSTEMD,
    PATIENCE_S,
    everything,
    request,
    send,
    wait_until,
)

KEY = new_key()
HELD = """
import sys
from eic_agent import entry
pipe, config = sys.argv[1:]
sys.argv[1:] = ["--config", config, "serve"]
rest = entry.import_the_rest
entry.import_the_rest = lambda: (open(pipe).read(), rest())[1]
sys.exit(entry.main())
"""


class Starting:
    """An agent that has been started and does not know its configuration yet."""

    def __init__(self, directory: Path, config: Path) -> None:
        self.path = directory / "agent.sock"
        self.config = config
        self._pipe = directory / "pipe"
        os.mkfifo(self._pipe)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(self.path))
        self.path.chmod(0o666)
        self._listening.listen(64)
        words = [sys.executable, "-c", HELD, str(self._pipe), str(config)]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LIKE_SYSTEMD, str(self._listening.fileno()), *words],
            env={"LISTEN_FDS": "1"},
            pass_fds=[self._listening.fileno()],
            cwd=Path(__file__).parents[2],
        )

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE_S)
        connection.connect(str(self.path))
        return connection

    def ask(self) -> socket.socket:
        connection = self.connect()
        send(connection, request(b"alice", fingerprint=KEY.fingerprint.encode()))
        return connection

    def may_go_on(self) -> None:
        self._pipe.write_bytes(b"")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._listening.close()


@pytest.fixture
def sim() -> MetadataSimulator:
    sim = MetadataSimulator()
    sim.push("alice", KEY)
    return sim


@pytest.fixture
def starting(sim: MetadataSimulator, directory: Path) -> Iterator[Starting]:
    with sim.serve() as url:
        agent = Starting(directory, sim.config(directory, url))
        try:
            yield agent
        finally:
            agent.close()


ANSWER = client.DECIDED + len(KEY.line + "\n").to_bytes(4, "big") + f"{KEY.line}\n".encode()


def test_who_waits_is_greeted_before_the_agent_is_ready(starting: Starting) -> None:
    with starting.ask() as first, starting.ask() as second:
        assert first.recv(10) == second.recv(10) == client.STARTING
        with starting.ask() as late:  # while the agent imports
            assert late.recv(10) == client.STARTING
            starting.may_go_on()
            for connection in (first, second, late):
                assert everything(connection) == client.GREETING + ANSWER


def test_once_it_has_started_it_only_greets(starting: Starting) -> None:
    starting.may_go_on()
    wait_until(lambda: _greeting(starting) == client.GREETING, "the service takes over")


def _greeting(starting: Starting) -> bytes:
    with starting.connect() as connection:
        return connection.recv(1)


def test_the_time_of_who_waited_counts_from_when_it_has_started(
    starting: Starting, sim: MetadataSimulator
) -> None:
    with starting.connect() as connection:
        send(connection, request(b"alice", fingerprint=KEY.fingerprint.encode(), ms=b"1500"))
        assert connection.recv(10) == client.STARTING
        time.sleep(1.6)
        starting.may_go_on()
        assert everything(connection) == client.GREETING + ANSWER


def test_a_lookup_waits_for_a_start_no_longer_than_is_configured(
    starting: Starting, sim: MetadataSimulator
) -> None:
    config = starting.config.read_text()
    starting.config.write_text(config.replace("[imds]", "[imds]\nstart_s = 1.0"))
    with starting.ask() as connection:
        assert connection.recv(10) == client.STARTING
        time.sleep(1.1)
        starting.may_go_on()
        answer = everything(connection)
    assert answer[:2] == client.GREETING + client.UNDECIDED
    assert b"overloaded" in answer


def test_the_clients_own_wait_ends_with_the_answer(starting: Starting) -> None:
    moments: list[float] = []
    threading.Timer(0.5, starting.may_go_on).start()
    ends = time.monotonic() + client.DEADLINE_S
    answer = client.ask(
        str(starting.path),
        "alice",
        KEY.fingerprint,
        42,
        ends,
        lambda: moments.append(time.monotonic()),
    )
    assert answer == (client.DECIDED, f"{KEY.line}\n".encode())
    assert len(moments) == 1


def test_an_agent_killed_while_it_starts_sends_everybody_away(starting: Starting) -> None:
    with starting.ask() as connection:
        assert connection.recv(10) == client.STARTING
        starting.process.kill()
        assert everything(connection) == b""


def test_a_stranger_gets_few_places_and_takes_nobodys(starting: Starting) -> None:
    support.root()
    program = (
        "import os, socket, sys, time\n"
        "os.setuid(60001)\n"
        "held = []\n"
        "for _ in range(40):\n"
        "    held.append(socket.socket(socket.AF_UNIX))\n"
        "    held[-1].connect(sys.argv[1])\n"
        "print(sum(c.recv(1) == b'*' for c in held), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        ["/usr/bin/python3", "-IS", "-c", program, str(starting.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdin is not None
        assert stranger.stdout.readline() == b"%d\n" % entry._MOST_OF_A_STRANGER
        with starting.ask() as connection:
            assert connection.recv(10) == client.STARTING
            starting.may_go_on()
            assert everything(connection) == client.GREETING + ANSWER
        stranger.stdin.close()
