"""User data configures the agent at an instance's first boot, and cannot lock anybody out."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from eic_sandbox.simulator import new_key
from tests.machine.instance import CONFIG_DIRECTORY, Identity, Instance, simulated
from tests.machine.machine import Machine

SEED = "/var/lib/cloud/seed/nocloud"
FLEET = f"{CONFIG_DIRECTORY}/50-fleet.toml"


def first_boot(instance: Instance, user_data: Mapping[str, object]) -> Identity:
    """Boot anew with this user data, to which the default user's key is added; return that user."""
    key_in_user_data = new_key()
    # JSON is YAML.
    cloud_config = json.dumps({**user_data, "ssh_authorized_keys": [key_in_user_data.line]})
    machine = instance.machine
    machine.write(f"{SEED}/meta-data", f"instance-id: {instance.metadata.instance_id}\n")
    machine.write(f"{SEED}/user-data", f"#cloud-config\n{cloud_config}\n")
    machine.run("rm", "/etc/cloud/cloud-init.disabled")
    instance.reboot()
    machine.run("cloud-init", "status", "--wait")
    return Identity(instance, "debian", key_in_user_data)


def file_of(path: str, content: str) -> dict[str, object]:
    return {"path": path, "content": content}


def test_user_data_configures_an_agent_baked_into_the_image(instance: Instance) -> None:
    policy = '[policy]\ndeny_users = ["bob"]\n'
    from_user_data = first_boot(instance, {"write_files": [file_of(FLEET, policy)]})
    assert from_user_data.log_in().stdout == "debian\n"
    assert instance.push("debian").log_in().stdout == "debian\n"
    assert instance.push("bob").log_in().returncode == 255
    assert instance.entries("EIC_REASON=user-not-allowed")


def test_wrong_user_data_is_reported_and_lets_in_all_but_pushed_keys(instance: Instance) -> None:
    wrong = file_of(FLEET, '[policy]\ndeny_user = ["bob"]\n')
    from_user_data = first_boot(instance, {"write_files": [wrong]})
    assert instance.push("debian").log_in().returncode == 255
    assert from_user_data.log_in().stdout == "debian\n"
    reports = [entry["MESSAGE"] for entry in instance.entries("EIC_REASON=invalid-config")]
    assert any(FLEET in report and "deny_user" in report for report in reports)


def test_user_data_installs_and_configures_it_from_a_repository(
    image: Path, deb: Path, tmp_path: Path
) -> None:
    with Machine("fleet", image) as machine, simulated(machine, tmp_path) as instance:
        publish(machine, deb, "/srv/repository")
        first_boot(
            instance,
            {
                "apt": {
                    "preserve_sources_list": True,
                    "sources": {"eic": {"source": "deb [trusted=yes] file:/srv/repository ./"}},
                },
                "packages": ["eic-agent"],
                "write_files": [file_of(FLEET, '[policy]\ndeny_users = ["bob"]\n')],
            },
        )
        assert instance.push("debian").log_in().stdout == "debian\n"
        assert instance.push("bob").log_in().returncode == 255


def publish(machine: Machine, deb: Path, repository: str) -> None:
    """Make an apt repository of one package in the machine."""
    fields = subprocess.run(
        ["dpkg-deb", "--field", deb], capture_output=True, text=True, check=True
    ).stdout
    content = deb.read_bytes()
    machine.write(f"{repository}/eic-agent.deb", content)
    machine.write(
        f"{repository}/Packages",
        f"{fields}Filename: ./eic-agent.deb\nSize: {len(content)}\n"
        f"SHA256: {hashlib.sha256(content).hexdigest()}\n",
    )
