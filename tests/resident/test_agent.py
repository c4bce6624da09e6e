"""`eic-agent serve` whole: sshd's client on one side, the simulated metadata on the other."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from eic_agent import client, client_fallback
from eic_agent.reports.status import Health
from eic_agent.resident import connection
from eic_agent.sshd.status import Problem, Report
from eic_sandbox.simulator import MetadataSimulator, new_key
from tests.resident.process import wait_until
from tests.support import not_as_root

ALICES_KEY = new_key()
metrics_of = cast(Callable[[str], Iterator[Metric]], text_string_to_metric_families)


@dataclass
class Host:
    """A host with the agent resident, its client, and a simulated instance's metadata."""

    sim: MetadataSimulator
    url: str
    directory: Path
    agent: "subprocess.Popen[str]"

    @property
    def socket(self) -> Path:
        return self.directory / "agent.sock"

    def log(self) -> str:
        """What the agent wrote where it found no journal."""
        return (self.directory / "stderr").read_text()

    def lookup(
        self, *question: str, before: Sequence[str] = ()
    ) -> "subprocess.CompletedProcess[str]":
        """Ask as sshd does, by a command that runs what follows it."""
        options = ["--socket", str(self.socket), "--agent", str(self.directory / "eic-agent")]
        return subprocess.run(
            [*before, sys.executable, "-I", "-S", client.__file__, *options, *question],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def status(self, *options: str) -> str:
        """Run `eic-agent status`."""
        command = [sys.executable, "-m", "eic_agent", "status", "--socket", str(self.socket)]
        return subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=60, check=True
        ).stdout

    def counters(self) -> dict[str, object]:
        """Give the status as data."""
        command = [sys.executable, "-m", "eic_agent", "status", "--socket", str(self.socket)]
        done = subprocess.run(
            [*command, "--json"], capture_output=True, text=True, timeout=60, check=False
        )
        data: dict[str, object] = json.loads(done.stdout)
        assert data["ready"] is (done.returncode == 0)
        return data


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    sim = MetadataSimulator()
    sim.push("alice", ALICES_KEY)
    with sim.serve() as url:
        config = sim.config(tmp_path, url, agent={"clients": ["nobody"]})
        # What the client falls back to: the same lookup in one process.
        wrapper = tmp_path / "eic-agent"
        wrapper.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -m eic_agent --config "{config}" "$@"\n'
        )
        wrapper.chmod(0o755)
        with (tmp_path / "stderr").open("w") as errors:
            agent = subprocess.Popen(
                [str(wrapper), "serve", "--socket", str(tmp_path / "agent.sock")],
                stderr=errors,
                text=True,
            )
        made = Host(sim, url, tmp_path, agent)
        try:
            wait_until(made.socket.exists, "the agent listens")
            yield made
        finally:
            agent.send_signal(signal.SIGCONT)
            agent.terminate()
            agent.wait(30)


def test_the_entry_is_there_before_sshd_is_told(host: Host) -> None:
    done = host.lookup("alice", ALICES_KEY.fingerprint)
    assert (done.returncode, done.stdout, done.stderr) == (0, ALICES_KEY.line + "\n", "")
    assert ALICES_KEY.fingerprint in host.log()
    assert re.search(r"EIC_SSHD_PID=\d+ EIC_CLIENT_PID=\d+ EIC_CLIENT_UID=0", host.log())


def test_warm_lookups_ask_metadata_once_each(host: Host) -> None:
    host.lookup("alice", ALICES_KEY.fingerprint)
    host.sim.reset_counters()
    for _ in range(3):
        assert host.lookup("alice", ALICES_KEY.fingerprint).stdout
    assert sum(host.sim.requests.values()) == 3


def test_a_refusal_is_an_answer_and_says_why_in_the_journal(host: Host) -> None:
    host.sim.keys["alice"][0].expires = 1_000_000_000
    done = host.lookup("alice", ALICES_KEY.fingerprint)
    assert (done.returncode, done.stdout) == (0, "")
    wait_until(lambda: "expired" in host.log(), "the entry")


def test_metadata_out_of_reach_is_no_answer_and_no_fallback(host: Host) -> None:
    host.sim.documents["/latest/meta-data/instance-id/"] = None
    done = host.lookup("alice")
    assert (done.returncode, done.stdout) == (1, "")
    assert "metadata-unavailable" in done.stderr
    assert host.counters()["fallbacks"] == 0


def test_a_frozen_agent_is_fallen_back_from_and_counts_it_later(host: Host) -> None:
    host.agent.send_signal(signal.SIGSTOP)
    done = host.lookup("alice", ALICES_KEY.fingerprint, before=not_as_root())
    assert done.stdout == ALICES_KEY.line + "\n", done.stderr
    host.agent.send_signal(signal.SIGCONT)
    wait_until(lambda: host.counters()["fallbacks"] == 1, "the agent counts it")
    assert client_fallback.FELL_BACK == connection.FELL_BACK_PROTOCOL


def test_status_tells_what_happened(host: Host) -> None:
    host.lookup("alice")
    host.lookup("bob")
    found = host.counters()
    assert found["lookups"] == 2
    assert found["granted"] == 1
    signer = found["signer"]
    assert isinstance(signer, dict)
    assert signer["name"] == host.sim.pki.leaf.common_name
    assert re.search(r"^lookups +2$", host.status("--counters"), re.MULTILINE)


def test_explain_asks_the_running_agent_and_counts_no_lookup(host: Host) -> None:
    def explained() -> dict[str, object]:
        command = [sys.executable, "-m", "eic_agent", "explain", "--socket", str(host.socket)]
        done = subprocess.run(
            [*command, "alice", "--json"], capture_output=True, text=True, timeout=60, check=False
        )
        data: dict[str, object] = json.loads(done.stdout)
        return data

    host.sim.reset_counters()
    assert explained()["seen_by"] == "the running agent"
    assert explained()["authorized_keys"] == [ALICES_KEY.line]
    assert host.counters()["lookups"] == host.counters()["granted"] == 0
    assert "EIC_DECISION" not in host.log()
    assert host.lookup("alice", ALICES_KEY.fingerprint).stdout == ALICES_KEY.line + "\n"

    host.sim.config(host.directory, host.url, keys={"max_lifetime_s": "long"})
    host.agent.send_signal(signal.SIGHUP)
    wait_until(lambda: explained()["undecided"], "the reload")
    assert explained()["undecided"] == "invalid-config"
    assert "max_lifetime_s" in str(explained()["detail"])


def test_only_root_may_have_a_lookup_explained() -> None:
    asked = b"\0".join((connection.EXPLAIN_PROTOCOL, b"alice", b""))
    assert connection.parse_request(asked, connection.Peer(1, 0), 0.0, 4.0).explain
    with pytest.raises(ValueError, match="protocol"):
        connection.parse_request(asked, connection.Peer(1, 1000), 0.0, 4.0)


def test_status_says_first_whether_logins_can_work(host: Host) -> None:
    assert host.lookup("alice", ALICES_KEY.fingerprint).stdout
    lines = host.status().splitlines()
    assert lines[0] == "Ready."
    for fact in ("configuration  valid, read 20", "proved until 20", "last grant     20"):
        assert any(fact in line for line in lines), lines


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (Report("x", asks_us=True, runs_client=True), None),
        (Report("x", asks_us=True, runs_client=False), "sshd does not ask"),
        (Report("x", problems=(Problem("Match decides", "mend"),)), "Match decides"),
        (Report("x", asks_us=None, not_seen="/etc"), None),
    ],
)
def test_an_agent_that_sshd_does_not_ask_is_not_ready(report: Report, said: str | None) -> None:
    agent = {"uptime_s": 1.0, "version": "1", "signer": {"name": "s", "holds_s": 5.0}}
    health = Health(agent, report)
    assert (health.problem is None) is (said is None)
    assert said is None or said in health.text(1e9).splitlines()[0]


def test_an_agent_that_keeps_signers_and_has_none_is_not_ready() -> None:
    agent = {"uptime_s": 1.0, "version": "1", "signer": None}
    assert Health({**agent, "signer_kept": True}, None).problem
    assert Health({**agent, "signer_kept": False}, None).problem is None


def test_status_is_openmetrics_that_its_own_parser_reads(host: Host) -> None:
    host.sim.keys["alice"][0].expires = 1_000_000_000
    host.lookup("alice")
    families = {f.name: f for f in metrics_of(host.status("--openmetrics"))}
    (refused,) = families["eic_agent_refused"].samples
    assert refused.labels == {"reason": "expired"}
    assert refused.value == 1
    assert families["eic_agent_lookups"].samples[0].value == 1


def test_status_of_no_agent_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eic_agent", "status", "--socket", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no agent answers" in done.stderr


def test_a_reload_takes_the_new_configuration_and_keeps_the_counts(host: Host) -> None:
    assert host.lookup("alice").stdout
    host.sim.config(host.directory, host.url, policy={"deny_users": ["alice"]})
    host.agent.send_signal(signal.SIGHUP)
    wait_until(lambda: not host.lookup("alice").stdout, "alice is denied")
    assert host.counters()["granted"] == 1


INVALID = {
    "a value": {"keys": {"max_lifetime_s": "long"}},
    "trust anchors that are not there": {"trust": {"anchors": "/nonexistent.pem"}},
}


@pytest.mark.parametrize("invalid", INVALID)
def test_an_invalid_configuration_grants_no_key_and_status_shows_it_until_it_is_mended(
    host: Host, invalid: str
) -> None:
    assert host.lookup("alice", ALICES_KEY.fingerprint).stdout == ALICES_KEY.line + "\n"
    valid = (host.directory / "config.toml").read_text()
    host.sim.config(host.directory, host.url, **INVALID[invalid])
    host.agent.send_signal(signal.SIGHUP)
    wait_until(lambda: "no pushed key is granted" in host.log(), "the report")
    done = host.lookup("alice", ALICES_KEY.fingerprint)
    assert (done.returncode, done.stdout) == (1, "")
    assert "invalid-config" in done.stderr
    with pytest.raises(subprocess.CalledProcessError) as ended:
        host.status("--json")
    shown = json.loads(ended.value.stdout)
    assert shown["invalid_config"] in host.log()
    assert shown["granted"] == 1
    assert shown["undecided"] == {"invalid-config": 1}
    with pytest.raises(subprocess.CalledProcessError) as ended:
        host.status("--openmetrics")
    families = {f.name: f for f in metrics_of(ended.value.stdout)}
    assert families["eic_agent_configuration_valid"].samples[0].value == 0

    (host.directory / "config.toml").write_text(valid)
    wait_until(lambda: host.lookup("alice").stdout, "that it is read again")
    assert "invalid_config" not in host.counters()


def test_an_invalid_configuration_at_the_start_is_answered_and_read_again(host: Host) -> None:
    host.agent.terminate()
    host.agent.wait(30)
    host.socket.unlink(missing_ok=True)  # one that is ended while it starts leaves it
    valid = (host.directory / "config.toml").read_text()
    host.sim.config(host.directory, host.url, keys={"max_lifetime_s": "long"})
    command = [str(host.directory / "eic-agent"), "serve", "--socket", str(host.socket)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as agent:
        try:
            wait_until(host.socket.exists, "the agent listens")
            done = host.lookup("alice")
            assert (done.returncode, done.stdout) == (1, "")
            assert "max_lifetime_s" in done.stderr
            (host.directory / "config.toml").write_text(valid)
            wait_until(lambda: host.lookup("alice").stdout, "that it is read again")
        finally:
            agent.terminate()


def test_no_socket_is_an_error_that_says_what_would_be_right() -> None:
    command = [sys.executable, "-m", "eic_agent", "serve"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "--socket PATH" in done.stderr
