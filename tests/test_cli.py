"""The commands as they are run: arguments in, exit status and output out."""

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from eic_sandbox.simulator import MetadataSimulator, new_key

ALICES_KEY = new_key()


@dataclass
class Machine:
    """A machine whose configuration leads to a simulated instance's metadata."""

    sim: MetadataSimulator
    config: Path
    url: str
    directory: Path

    def run(self, *arguments: str | bytes) -> "subprocess.CompletedProcess[str]":
        """Run `eic-agent` with this machine's configuration."""
        command = [sys.executable, "-m", "eic_agent", "--config", str(self.config), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def configure(self, **sections: dict[str, object]) -> None:
        """Write the configuration anew, with more in it."""
        self.sim.config(self.directory, self.url, **sections)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    sim = MetadataSimulator()
    sim.push("alice", ALICES_KEY)
    with sim.serve() as url:
        yield Machine(sim, sim.config(tmp_path, url), url, tmp_path)


@pytest.mark.parametrize("fingerprint", [(), (ALICES_KEY.fingerprint,)])
def test_authorized_keys_prints_keys_and_nothing_else(
    machine: Machine, fingerprint: tuple[str, ...]
) -> None:
    done = machine.run("authorized-keys", "alice", *fingerprint, "--deadline-s", "20")
    assert done.returncode == 0
    assert done.stdout == ALICES_KEY.line + "\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("bob",),
        ("alice", "SHA256:another"),
        ("-x", "SHA256:another"),
        ("--help", "SHA256:another"),
        ("--deadline-s", "SHA256:another"),
        ("--config",),
        ("",),
        ("root\n",),
        (b"\xff\xfe",),
        ("x" * 100_000,),
    ],
)
def test_any_user_name_gets_an_answer(machine: Machine, arguments: tuple[str | bytes, ...]) -> None:
    done = machine.run("authorized-keys", *arguments)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr


def test_metadata_out_of_reach_is_one_line_that_says_what_to_do(machine: Machine) -> None:
    machine.configure(imds={"endpoint": "http://127.0.0.1:9", "timeout_s": 0.5})
    done = machine.run("authorized-keys", "alice")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "metadata-unavailable" in line
    assert "firewall" in line


def test_an_invalid_configuration_grants_nothing_and_names_the_key(machine: Machine) -> None:
    machine.configure(keys={"max_lifetime_s": "an hour"})
    done = machine.run("authorized-keys", "alice")
    assert (done.returncode, done.stdout) == (1, "")
    assert "max_lifetime_s" in done.stderr
    assert "config check" in done.stderr
    check = machine.run("config", "check")
    assert check.returncode == 1
    assert "max_lifetime_s" in check.stderr
    assert str(machine.config) in check.stderr


def test_a_mistake_in_the_agents_or_the_logs_table_costs_no_key(machine: Machine) -> None:
    machine.configure(log={"level": "loud"})
    done = machine.run("authorized-keys", "alice")
    assert (done.returncode, done.stdout) == (0, ALICES_KEY.line + "\n")
    assert "loud" in done.stderr


def test_a_lookup_asks_nothing_after_its_deadline(machine: Machine) -> None:
    """One after the other, the ten requests of a first lookup would take four seconds."""
    machine.configure(imds={"deadline_s": 2.0, "endpoint": machine.url})
    machine.sim.latency_s = 0.4
    done = machine.run("authorized-keys", "alice")
    assert (done.returncode, done.stdout) == (1, "")
    assert sum(machine.sim.requests.values()) <= 5


@pytest.mark.parametrize("left", ["0", "0.000", "-1"])
def test_a_lookup_that_has_no_time_left_decides_nothing(machine: Machine, left: str) -> None:
    done = machine.run("authorized-keys", "alice", "--deadline-s", left)
    assert (done.returncode, done.stdout) == (1, "")
    assert "metadata-unavailable" in done.stderr


def test_the_deadline_is_a_moment_where_one_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EIC_DEADLINE_MONOTONIC", f"{time.monotonic():.3f}")
    done = machine.run("authorized-keys", "alice", "--deadline-s", "3.0")
    assert (done.returncode, done.stdout) == (1, "")
    monkeypatch.setenv("EIC_DEADLINE_MONOTONIC", f"{time.monotonic() + 60:.3f}")
    done = machine.run("authorized-keys", "alice", "--deadline-s", "0")
    assert (done.returncode, done.stdout) == (0, ALICES_KEY.line + "\n")


def test_a_process_id_that_is_none_costs_no_key(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for told in ("9" * 5000, "-1", "\u0663", ""):
        monkeypatch.setenv("EIC_SSHD_PID", told)
        done = machine.run("authorized-keys", "alice")
        assert (done.returncode, done.stdout) == (0, ALICES_KEY.line + "\n")


def test_keys_that_could_not_be_written_have_a_second_entry(machine: Machine) -> None:
    command = [sys.executable, "-m", "eic_agent", "--config", str(machine.config)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, "authorized-keys", "alice"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    granted, undelivered = done.stderr.splitlines()
    assert done.returncode == 0
    assert "EIC_DECISION=granted" in granted
    assert "not delivered" in undelivered
    assert "EIC_UNDELIVERED=1" in undelivered


def test_a_certificate_that_the_library_warns_of_adds_no_line(machine: Machine) -> None:
    """Its organization made a country, of which the library says that it is too long."""
    der, organization = machine.sim.pki.intermediate.der, bytes.fromhex("0603 55040a")
    assert organization in der
    body = base64.encodebytes(der.replace(organization, bytes.fromhex("0603 550406")))
    machine.sim.documents["/latest/meta-data/managed-ssh-keys/signer-cert/"] = (
        machine.sim.pki.leaf.pem
        + b"-----BEGIN CERTIFICATE-----\n"
        + body
        + b"-----END CERTIFICATE-----\n"
    )
    done = machine.run("authorized-keys", "alice")
    assert (done.returncode, done.stdout) == (0, "")
    assert "Warning" not in done.stderr


def test_sshd_that_does_not_wait_is_no_error(machine: Machine) -> None:
    command = [sys.executable, "-m", "eic_agent", "--config", str(machine.config)]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*command, "authorized-keys", "alice"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "EIC_UNDELIVERED=1" in done.stderr


def test_explain_shows_every_step_and_the_key(machine: Machine) -> None:
    """This machine's sshd does not ask us, so that no login comes of the key: step 0 says so."""
    done = machine.run("explain", "alice", "--verbose")
    assert done.returncode == 1
    for number in range(10):
        assert re.search(rf"^{number}\. ", done.stdout, re.MULTILINE)
    assert "not reached" not in done.stdout
    assert ALICES_KEY.line in done.stdout
    short = machine.run("explain", "alice").stdout
    assert "would tell sshd of 1 key(s) for alice" in short
    assert len(short.splitlines()) < len(done.stdout.splitlines())
    assert all(re.search(rf"^{number}\. ", short, re.MULTILINE) for number in range(10))


def test_explain_as_data_says_why_a_key_is_refused(machine: Machine) -> None:
    machine.sim.keys["alice"][0].expires = 1_000_000_000
    done = machine.run("explain", "alice", "--json")
    assert done.returncode == 1
    data = json.loads(done.stdout)
    assert [step["step"] for step in data["steps"]] == list(range(1, 10))
    (finding,) = data["steps"][6]["findings"]
    assert finding["outcome"] == "expired"
    assert data["decisions"][0]["reason"] == "expired"
    assert data["authorized_keys"] == []
    assert (data["granted"], data["sshd"]["asks"]) == (False, False)
    assert "expired" in machine.run("explain", "alice").stdout.split("\n\n")[0]


def test_explain_lets_nothing_reach_the_terminal_unescaped(machine: Machine) -> None:
    path = "/latest/meta-data/managed-ssh-keys/active-keys/alice/"
    machine.sim.documents[path] = b"#X=\x1b[2J\x9b\n\n#Timestamp=9\n\xe2\x80\xae\n\n"
    machine.sim.instance_id = "i-\x1b]0;x\x07"
    machine.sim.region = "us\x1b-east-1"
    for arguments in (("explain", "alice"), ("explain", "\x1b[2J")):
        done = machine.run(*arguments)
        assert done.returncode == 1
        assert (done.stdout + done.stderr).replace("\n", "").isprintable()
        assert done.stdout.isascii()


@pytest.mark.parametrize("seconds", [999_999_999_999, 253_402_300_800])
def test_explain_shows_a_moment_beyond_any_calendar(machine: Machine, seconds: int) -> None:
    machine.sim.keys["alice"][0].expires = seconds
    done = machine.run("explain", "alice")
    assert "expires-too-late" in done.stdout
    assert "Traceback" not in done.stderr


def test_what_config_show_prints_is_valid_and_says_the_same(machine: Machine) -> None:
    shown = machine.run("config", "show")
    assert shown.returncode == 0
    machine.config.write_text(shown.stdout)
    assert machine.run("config", "check").returncode == 0
    assert machine.run("config", "show").stdout == shown.stdout


def test_a_configuration_that_is_asked_for_must_exist(machine: Machine) -> None:
    machine.config.unlink()
    for command in (("config", "check"), ("config", "show"), ("explain", "alice")):
        done = machine.run(*command)
        assert done.returncode == 1
        assert str(machine.config) in done.stderr + done.stdout


def test_every_command_has_help_and_a_version() -> None:
    for arguments in (["--version"], ["--help"], ["explain", "--help"], ["config", "--help"]):
        command = [sys.executable, "-m", "eic_agent", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0
        assert done.stdout
