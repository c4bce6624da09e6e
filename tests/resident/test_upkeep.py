"""What the agent does while nobody asks: the signer is proved ahead, and memory is given back."""

import base64
import fcntl
import math
import os
import socket
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import cast

import pytest

from eic_agent.errors import MetadataUnavailable, Reason, UntrustedMaterial
from eic_agent.journal.writer import open_journal
from eic_agent.lookup.authorizer import Authorizer
from eic_agent.metadata.deadline import Deadline
from eic_agent.resident.pressure import Pressure
from eic_agent.resident.upkeep import Timer, Upkeep
from eic_sandbox.simulator.simulator import ACTIVE_KEYS, SIGNER_CERT
from tests.lookup.rig import Rig, make_rig
from tests.resident.process import Agent, wait_until
from tests.resident.test_agent import ALICES_KEY, Host, host

__all__ = ["host"]


def test_the_first_lookup_of_all_is_one_request(host: Host) -> None:
    wait_until(lambda: host.counters()["signer"], "the signer that nobody has asked for")
    host.sim.reset_counters()
    assert host.lookup("alice", ALICES_KEY.fingerprint).stdout
    assert host.sim.requests == {f"{ACTIVE_KEYS}alice/": 1}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with make_rig(tmp_path) as made:
        made.rules = replace(made.rules, trust=replace(made.rules.trust, max_cache_s=1000.0))
        yield made


def test_a_signer_is_proved_anew_before_it_runs_out_and_not_earlier(rig: Rig) -> None:
    life_s = 1000.0
    authorizer, slept_s = rig.agent(), 0.0
    authorizer.signers._timer = lambda: time.monotonic() + slept_s

    def prepare() -> float:
        return authorizer.prepare(Deadline.after(30))

    assert prepare() == pytest.approx(0.8 * life_s, abs=1)
    rig.sim.reset_counters()
    slept_s = 0.7 * life_s
    assert prepare() == pytest.approx(0.1 * life_s, abs=1)
    assert not rig.sim.requests
    before = authorizer.signers.cached()
    slept_s = 0.85 * life_s
    assert prepare() == pytest.approx(0.8 * life_s, abs=1)
    assert rig.sim.requests[SIGNER_CERT] == 1
    assert sum(rig.sim.requests.values()) <= 5
    assert authorizer.signers.cached() is not before


def test_a_signer_that_holds_stays_where_its_successor_cannot_be_had(rig: Rig) -> None:
    authorizer = rig.agent()
    authorizer.prepare(Deadline.after(30))
    signer = authorizer.signers.cached()
    rig.sim.documents[SIGNER_CERT] = None
    authorizer.signers._timer = lambda: time.monotonic() + 900
    with pytest.raises(MetadataUnavailable):
        authorizer.prepare(Deadline.after(30))
    assert authorizer.signers.cached() is signer


@dataclass
class Failing:
    """Prepares nothing, for reasons that are given."""

    reasons: list[Exception] = field(default_factory=list)

    def prepare(self, deadline: Deadline) -> float:
        if self.reasons:
            raise self.reasons.pop(0)
        return 1234.0


def upkeep(*reasons: Exception) -> Upkeep:
    journal = open_journal(socket_path=Path("/nonexistent"))
    return Upkeep(cast(Authorizer, Failing(list(reasons))), journal, 4.0)


def test_without_metadata_it_tries_less_and_less_often() -> None:
    absent = MetadataUnavailable("nobody there")
    tries = upkeep(*[absent] * 12)
    pauses = [tries() for _ in range(12)]
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert tries() == 1234
    assert upkeep(absent)() == 1


def test_what_is_no_instance_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert upkeep(UntrustedMaterial(Reason.NOT_EC2, "no hardware of EC2's"))() == math.inf
    assert "no hardware of EC2's" in capsys.readouterr().err


def test_what_is_not_believed_is_told_before_anybody_logs_in(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert upkeep(UntrustedMaterial(Reason.REVOKED, "the leaf"))() == 1
    assert "revoked" in capsys.readouterr().err


def test_what_an_upkeep_of_the_past_says_does_not_count() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        timer = Timer(ours)
        timer.take(lambda: 1000.0)
        timer.run()
        assert theirs.recv(1) == b"\0"
        assert timer.due_at > time.monotonic() + 900
        old = timer._upkeep
        timer.take(lambda: 0.0)
        assert old is not None
        timer._run(old)
        assert timer.due_at <= time.monotonic()


# -- memory --------------------------------------------------------------------------------------


@pytest.fixture
def fifo(directory: Path) -> Path:
    path = directory / "pressure"
    os.mkfifo(path, 0o666)
    return path


@pytest.fixture
def pressed(directory: Path, fifo: Path) -> Iterator[Agent]:
    """An agent that hears of pressure through a pipe, as systemd.io/MEMORY_PRESSURE allows."""
    agent = Agent(directory, environment={"MEMORY_PRESSURE_WATCH": str(fifo)})
    try:
        yield agent.wait_until_ready()
    finally:
        agent.kill()


def unread(pipe: FileIO) -> int:
    """How many bytes nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_pressure_is_borne_once_and_then_the_agent_leaves(pressed: Agent, fifo: Path) -> None:
    with fifo.open("wb", buffering=0) as pipe:
        pipe.write(b"x")
        wait_until(lambda: not unread(pipe), "the agent to hear of it")
        assert pressed.ask("still here")[0] == b"A"
        assert pressed.process.poll() is None
        pipe.write(b"x")
        assert pressed.ends() == 0
    assert "memory is short" in pressed.errors()


def test_what_systemd_says_is_written_and_taken_out_of_the_environment(fifo: Path) -> None:
    text = b"some 200000 2000000\0"
    environ = {
        "MEMORY_PRESSURE_WATCH": str(fifo),
        "MEMORY_PRESSURE_WRITE": base64.b64encode(text).decode(),
    }
    pressure = Pressure.told(environ)
    assert pressure is not None
    assert environ == {}
    assert os.read(pressure._watched, 100) == text
    pressure.close()


@pytest.mark.parametrize(
    ("path", "write"), [("", ""), ("/dev/null", ""), ("/nonexistent", ""), ("/dev/zero", "?")]
)
def test_what_cannot_be_watched_is_not(path: str, write: str) -> None:
    assert Pressure.told({"MEMORY_PRESSURE_WATCH": path, "MEMORY_PRESSURE_WRITE": write}) is None


def test_the_kernels_own_file_is_waited_for() -> None:
    path = Path("/proc/pressure/memory")
    if not path.exists():
        pytest.skip("this kernel measures no pressure")
    write = base64.b64encode(b"some 200000 2000000\0").decode()
    pressure = Pressure.told({"MEMORY_PRESSURE_WATCH": str(path), "MEMORY_PRESSURE_WRITE": write})
    if pressure is None:
        pytest.skip("this kernel lets nobody wait for pressure")
    pressure.take()
    pressure.close()
