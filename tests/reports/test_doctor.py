"""`eic-agent doctor` on this machine's parts: real sshd, simulated metadata, a running agent."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eic_agent.errors import EicAgentError
from eic_agent.reports import doctor
from eic_agent.reports.checks import check, instance, service
from eic_agent.reports.checks.check import Finding, Level
from eic_sandbox.simulator import MetadataSimulator


@dataclass
class Host:
    """A configuration that leads to a simulated instance's metadata."""

    sim: MetadataSimulator
    url: str
    directory: Path
    config: Path

    def doctor(self) -> dict[str, list[dict[str, str]]]:
        """Run doctor; give its findings by check."""
        command = [sys.executable, "-m", "eic_agent", "--config", str(self.config), "doctor"]
        command += ["--socket", str(self.directory / "none"), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        data: dict[str, Any] = json.loads(done.stdout)
        levels = {one["level"] for one in data["findings"]}
        assert done.returncode == (1 if levels & {"error", "not seen"} else 0)
        found: dict[str, list[dict[str, str]]] = {}
        for one in data["findings"]:
            found.setdefault(one["check"], []).append(one)
        return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    sim = MetadataSimulator()
    with sim.serve() as url:
        yield Host(sim, url, tmp_path, sim.config(tmp_path, url))


def test_a_good_instance_is_ok_in_all_that_the_agent_sees(host: Host) -> None:
    found = host.doctor()
    for title in ("configuration", "hardware", "metadata", "clock", "signer"):
        assert [one["level"] for one in found[title]] == ["ok"], found[title]


def test_an_invalid_configuration_is_named_with_its_remedy(host: Host) -> None:
    host.sim.config(host.directory, host.url, keys={"max_lifetime_s": "long"})
    (one,) = host.doctor()["configuration"]
    assert one["level"] == "error"
    assert "max_lifetime_s" in one["what"]
    assert "config check" in one["remedy"]


def test_hardware_that_is_no_instances_is_named(host: Host) -> None:
    (host.directory / "empty").mkdir()
    host.sim.config(
        host.directory, host.url, identity={"sysfs_root": str(host.directory / "empty")}
    )
    (one,) = host.doctor()["hardware"]
    assert one["level"] == "error"


def test_metadata_out_of_reach_is_named(host: Host) -> None:
    host.sim.config(
        host.directory, host.url, imds={"endpoint": "http://127.0.0.1:9", "timeout_s": 0.5}
    )
    (one,) = host.doctor()["metadata"]
    assert one["level"] == "error"
    assert "modify-instance-metadata-options" in one["remedy"]


def test_a_signer_that_no_anchor_vouches_for_is_named(host: Host) -> None:
    host.sim.config(host.directory, host.url, trust={"anchors": "amazon"})
    (one,) = host.doctor()["signer"]
    assert one["level"] == "error"
    assert "untrusted-chain" in one["what"]


@pytest.mark.parametrize(
    ("problem", "remedy"),
    [
        ("PUT /latest/api/token: answered 403", "--http-endpoint enabled"),
        ("GET /x: answered 401", "proxy"),
        ("GET /x: answered 429", "too often"),
        ("GET /x: timed out", "modify-instance-metadata-options"),
    ],
)
def test_what_metadata_answers_says_what_to_do(problem: str, remedy: str) -> None:
    assert remedy in instance._what_to_do(problem)


@pytest.mark.parametrize(
    ("offset_s", "level", "said"),
    [
        (0.5, Level.OK, ""),
        (10.0, Level.WARNING, "ahead of"),
        (45.0, Level.ERROR, "ahead of"),
        (-100.0, Level.WARNING, "behind"),
        (-300.0, Level.ERROR, "behind"),
        (None, Level.WARNING, ""),
    ],
)
def test_a_clock_that_is_off_is_told_by_how_much_it_costs(
    offset_s: float | None, level: Level, said: str
) -> None:
    found = instance._clock(offset_s, 240)
    assert found.level is level
    assert said in found.what


@pytest.mark.parametrize(
    ("running", "level", "said"),
    [
        ({"uptime_s": 5.0, "signer": None}, Level.OK, "valid"),
        ({"uptime_s": 5.0, "invalid_config": "a.toml: x"}, Level.ERROR, "a.toml"),
        ({"uptime_s": 5.0, "journal_entries_lost": 3}, Level.WARNING, "3 journal entries"),
    ],
)
def test_what_the_running_agent_says_counts(
    running: Mapping[str, Any], level: Level, said: str
) -> None:
    found = next(iter(service._running(running)))
    assert found.level is level
    assert said in found.what


def test_files_that_were_written_after_the_agent_read_them_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.touch()
    now = time.time()
    assert instance._changed((path,), now - 60) == [str(path)]
    assert instance._changed((path,), now + 60) == []


def test_the_verdict_comes_first_and_nothing_reaches_the_terminal_unescaped() -> None:
    well = doctor.Diagnosis((("a", check.ok("fine")),))
    assert (well.exit_status, well.text().splitlines()[0]) == (0, "All is well.")
    warned = doctor.Diagnosis((("a", check.warning("odd", "look")),))
    assert warned.exit_status == 0
    assert "1 warning" in warned.text().splitlines()[0]
    unseen = doctor.Diagnosis((("a", check.not_seen("it")),))
    assert unseen.exit_status == 1
    assert "without root" in unseen.text()
    wrong = doctor.Diagnosis((*warned.found, ("b", check.error("bad\x1b[2J", "mend it"))))
    assert wrong.exit_status == 1
    assert wrong.text().startswith("Something is wrong: b: bad")
    assert wrong.text().replace("\n", "").isprintable()
    assert "-> mend it" in wrong.text()


def test_a_failure_of_the_process_that_looks_is_not_taken_for_health(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fails() -> Iterator[tuple[str, Finding]]:
        yield "a", check.ok(str(1 // 0))

    with pytest.raises(EicAgentError, match="failed"):
        doctor.diagnose((), fails)
    assert "ZeroDivisionError" in capfd.readouterr().err
