"""What the project is for: a key is pushed, and its owner logs in."""

import time
from pathlib import Path

import pytest

from eic_sandbox.simulator import CALLER
from eic_sandbox.simulator.simulator import ACTIVE_KEYS
from tests.machine.instance import Instance, simulated
from tests.machine.machine import Machine, until


def test_a_key_pushed_right_after_the_installation_logs_in(
    image: Path, deb: Path, tmp_path: Path
) -> None:
    """Nothing else is done: no service restarted, no configuration of sshd touched by hand."""
    with Machine("fresh", image) as machine, simulated(machine, tmp_path) as instance:
        machine.copy_in(deb, "/root/eic-agent.deb")
        started = time.monotonic()
        machine.run("apt-get", "install", "--yes", "/root/eic-agent.deb")
        print(f"installed in {time.monotonic() - started:.1f} s")
        # Within a second sshd takes up what it was told to; under load it may take longer.
        until(lambda: instance.push_and_log_in().stdout == "alice\n", "a login", 10)
        print(f"logged in {time.monotonic() - started:.1f} s after its start")
        assert machine.run("systemctl", "is-system-running").stdout == "running\n"


def test_a_key_logs_in_only_for_whom_it_was_pushed_and_only_while_it_is_valid(
    instance: Instance,
) -> None:
    identity = instance.push("alice")
    assert identity.log_in().stdout == "alice\n"
    assert identity.log_in(user="bob").returncode == 255
    identity.block.expires = int(time.time()) - 1
    assert identity.log_in().returncode == 255
    assert instance.decisions()[-1]["EIC_REASON"] == "expired"


def test_the_journal_tells_which_principal_got_in_with_which_key(instance: Instance) -> None:
    identity = instance.push("alice")
    identity.log_in()
    (accepted,) = [
        entry
        for entry in instance.machine.journal("_SYSTEMD_UNIT=ssh.service")
        if entry["MESSAGE"].startswith("Accepted publickey for alice")
    ]
    assert identity.key.fingerprint in accepted["MESSAGE"]

    agents_uid = instance.machine.run("id", "-u", "eic-agent").stdout.strip()
    decisions = instance.decisions()
    assert len(decisions) == 2, "sshd asks for a key offered, and again for the key that signed"
    assert len({entry["MESSAGE_ID"] for entry in decisions}) == 1
    for entry in decisions:
        fields = {name: text for name, text in entry.items() if name.startswith("EIC_")}
        assert int(fields.pop("EIC_LATENCY_US")) > 0
        assert int(fields.pop("EIC_CLIENT_PID")) > 1
        assert fields == {
            "EIC_DECISION": "granted",
            "EIC_USER": "alice",
            "EIC_FINGERPRINT": identity.key.fingerprint,
            "EIC_CALLER": CALLER,
            "EIC_REQUEST": identity.block.request,
            "EIC_INSTANCE": instance.metadata.instance_id,
            "EIC_EXPIRES": str(identity.block.expires),
            "EIC_SSHD_PID": accepted["_PID"],
            "EIC_CLIENT_UID": agents_uid,
        }
        assert entry["SYSLOG_FACILITY"] == "10"
        assert entry["_SYSTEMD_UNIT"] == "eic-agent.service"


def test_a_login_costs_two_metadata_requests_once_the_agent_runs(instance: Instance) -> None:
    instance.push("alice").log_in()
    instance.metadata.reset_counters()
    assert instance.push("alice").log_in().returncode == 0
    assert instance.metadata.requests == {f"{ACTIVE_KEYS}alice/": 2}


@pytest.mark.parametrize("gone", ["metadata", "identity", "trust"])
def test_where_nothing_can_be_verified_only_keys_in_files_log_in(
    instance: Instance, gone: str
) -> None:
    in_file = instance.authorized_in_file("alice")
    pushed = instance.push("alice")
    reason = {
        "metadata": "metadata-unavailable",
        "identity": "not-this-instance",
        "trust": "untrusted-chain",
    }[gone]
    if gone == "metadata":
        instance.stop_serving()
    elif gone == "identity":
        instance.machine.sh(
            "echo i-0fedcba9876543210 > /srv/simulated/sys/devices/virtual/dmi/id/board_asset_tag"
        )
    else:
        instance.configure("60-amazon.toml", trust={"anchors": "amazon"})
    assert pushed.log_in().returncode == 255
    assert in_file.log_in().stdout == "alice\n"
    assert instance.entries(f"EIC_REASON={reason}")
