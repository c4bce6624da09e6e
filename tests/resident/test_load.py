"""Under load every answer is right, requests are shared, and nothing is left behind.

`make bench` does the same for longer, and says how fast it was.
"""

import dataclasses
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import metadata
from benchmarks.load import Load, Lookup, Push, PushLog, Vitals, ask
from benchmarks.metadata import INSTANCE_ID, MetadataProcess
from eic_agent import client
from eic_sandbox.simulator import new_key
from eic_sandbox.simulator.host import write_config, write_sysfs
from tests.resident.process import wait_until

KEY = new_key()
CROWD = 200
# How fast an answer comes is for `make bench`; that it comes, and is right, is tested here.
PATIENCE_S = 30.0
MOST_THREADS = 2 * 32 + 6  # lookups, requests to metadata, and what serves them


@dataclass(frozen=True)
class Host:
    """A metadata service and an agent, each in a process of its own."""

    service: MetadataProcess
    socket: Path
    pid: int


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(client, "GREETING_S", PATIENCE_S)
    with MetadataProcess() as service:
        anchors = tmp_path / "anchors.pem"
        anchors.write_bytes(service.do(metadata.anchors_pem))
        tables: dict[str, dict[str, object]] = {
            "imds": {"endpoint": service.url, "timeout_s": 10.0, "deadline_s": 20.0},
            "identity": {"sysfs_root": str(write_sysfs(tmp_path / "sys", "nitro", INSTANCE_ID))},
            "trust": {"anchors": str(anchors)},
        }
        config = write_config(tmp_path / "config.toml", tables)
        socket = tmp_path / "agent.sock"
        words = ["-m", "eic_agent", "--config", str(config), "serve", "--socket", str(socket)]
        agent = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL)
        try:
            wait_until(socket.exists, "the agent listens")
            yield Host(service, socket, agent.pid)
        finally:
            agent.terminate()
            agent.wait()


def test_a_crowd_is_answered_rightly_with_one_request_after_the_other(host: Host) -> None:
    host.service.do(metadata.push, "alice", [KEY.line], 200)
    ask(host.socket, "alice", KEY.fingerprint, PATIENCE_S)
    host.service.do(metadata.set_latency, 0.05)
    host.service.do(metadata.take_requests)
    together = threading.Barrier(CROWD)

    def look_up(_: int) -> Lookup:
        together.wait()
        return ask(host.socket, "alice", KEY.fingerprint, PATIENCE_S)

    with ThreadPoolExecutor(CROWD) as threads:
        answers = list(threads.map(look_up, range(CROWD)))
    assert {(a.verdict, a.payload) for a in answers} == {(b"A", f"{KEY.line}\n".encode())}
    # One in flight and one gathering: the service itself never sees two.
    assert host.service.do(metadata.most_at_once, "alice") == 1
    assert sum(host.service.do(metadata.take_requests).values()) < CROWD


def test_no_answer_is_wrong_and_nothing_leaks_while_keys_come_and_go(host: Host) -> None:
    load = Load(host.socket, host.pid, host.service, lookups=200, seconds=1)
    load.run()
    before = Vitals.of(host.pid)
    report = dataclasses.replace(load, lookups=1500, seconds=10).run()
    assert (report.wrong, report.undecided) == ([], [])
    assert len(report.lookups) == 1500 + report.pushes
    assert report.keys_granted > 100
    # A connection for each user asked about at the same time may be kept alive.
    most = before.descriptors + 20
    wait_until(lambda: Vitals.of(host.pid).descriptors <= most, "descriptors are given back")
    assert Vitals.of(host.pid).threads <= MOST_THREADS


def test_the_judge_of_answers_under_load_sees_what_is_wrong() -> None:
    log = PushLog()
    log.add(Push("alice", KEY, asked=10.0, done=11.0, expires=20))

    def wrong(*lines: str, begun: float, ended: float, user: str = "alice") -> int:
        return len(log.judge(user, None, lines, begun, ended))

    assert wrong(KEY.line, begun=12, ended=13) == 0
    assert wrong(begun=12, ended=13) == 1, "a key that was there is missing"
    assert wrong(begun=10.5, ended=13) == 0, "it came while the lookup was under way"
    assert wrong(KEY.line, begun=8, ended=9) == 1, "it was told before it was pushed"
    assert wrong(KEY.line, begun=20, ended=21) == 1, "it was told after its end"
    assert wrong(begun=19.5, ended=20.5) == 0, "it expired while the lookup was under way"
    assert wrong(KEY.line, KEY.line, begun=12, ended=13) == 1, "it was told twice"
    assert wrong(KEY.line, begun=12, ended=13, user="bob") == 1, "it is another user's"
    assert len(log.judge("alice", new_key().fingerprint, [KEY.line], 12, 13)) == 1
    assert not log.judge("alice", new_key().fingerprint, [], 12, 13)
