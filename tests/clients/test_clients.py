"""Every client gets in with a key that nothing but the API delivered."""

import time

import pytest

from eic_sandbox.instance import KEY_LIFETIME_S
from tests.clients.clients import CLIENTS, Client, visit_msftp, visit_mssh
from tests.clients.conftest import Used
from tests.clients.site import Site

KEY_TYPES = ("ed25519", "rsa")


@pytest.mark.parametrize("key_type", KEY_TYPES)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
@pytest.mark.usefixtures("late")  # so that their keys expire while the other tests run
def test_a_client_gets_in_with_a_pushed_key(
    site: Site, used: dict[str, Used], client: Client, key_type: str
) -> None:
    identity = site.new_identity(key_type)
    for number in client.instances:
        site.push(identity, site.sandbox.instances[number])
    ends = time.time() + KEY_LIFETIME_S
    outcome = client.visit(site, identity)
    assert outcome.ok, outcome.said
    used.setdefault(client.name, Used(identity, ends))


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_the_commands_of_the_aws_documentation_get_in(site: Site, key_type: str) -> None:
    identity = site.new_identity(key_type)
    push = ["aws", "ec2-instance-connect", "send-ssh-public-key"]
    push += ["--region", "us-east-1", "--availability-zone", "us-east-1a"]
    push += ["--instance-id", site.sandbox.instance.id, "--instance-os-user", site.user]
    push += ["--ssh-public-key", f"file://{identity.public}"]
    pushed = site.run(push)
    assert pushed.ok, pushed.said
    known_hosts = f"UserKnownHostsFile={site.host.directory}/known_hosts"
    ssh = ["ssh", "-o", "IdentitiesOnly=yes", "-i", str(identity.path)]
    ssh += ["-F", "none", "-o", known_hosts, "-o", "BatchMode=yes"]
    came_in = site.run([*ssh, "-p", str(site.host.port), f"{site.user}@127.0.0.1", "id -un"])
    assert came_in.said == f"{site.user}\n"


def test_mssh_logs_in(site: Site) -> None:
    outcome = visit_mssh(site)
    assert outcome.ok, outcome.said


def test_msftp_copies_a_file_there_and_back(site: Site) -> None:
    outcome = visit_msftp(site)
    assert outcome.ok, outcome.said
