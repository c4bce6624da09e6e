"""Keys in files and certificates work on beside the agent, and each login says what it was."""

import json
import subprocess
import sys
import time
from typing import Any

from tests import support
from tests.clients.clients import PERMISSION_DENIED, visit_ssh
from tests.clients.site import REPOSITORY, Identity, Site


def authorize_in_file(site: Site, identity: Identity) -> None:
    path = site.directory.parent / "authorized_keys" / site.user
    with path.open("a") as file:
        file.write(identity.public.read_text())


def certify(site: Site, identity: Identity, name: str, principal: str) -> None:
    """Have the CA beside us sign the key for this principal."""
    ssh_keygen = support.program("ssh-keygen", "openssh-client")
    ca = site.directory.parent / "user_ca"
    sign = [ssh_keygen, "-q", "-s", str(ca), "-I", name, "-n", principal, "-z", "7", "-V", "+5m"]
    subprocess.run([*sign, str(identity.public)], check=True)


def admit_principal(site: Site, principal: str) -> None:
    path = site.directory.parent / "principals" / site.user
    path.write_text(f"{principal}\n")


def logins(site: Site, identity: Identity) -> list[dict[str, Any]]:
    """Run the one command that tells of every login, and give those with this key."""
    box = site.directory.parent / "box"
    command = [sys.executable, "-m", "eic_sandbox.logins", str(box)]
    output = subprocess.check_output(command, text=True, cwd=REPOSITORY)
    found = [json.loads(line) for line in output.splitlines()]
    return [login for login in found if login["fingerprint"] == identity.fingerprint]


def visit(site: Site, identity: Identity) -> dict[str, Any]:
    """Log in with ssh, and give what is known of that login once the journal has it."""
    outcome = visit_ssh(site, identity)
    assert outcome.ok, outcome.said
    deadline = time.monotonic() + 30.0
    while True:
        (login,) = logins(site, identity)
        # The agent's entry is written by another process than sshd's line.
        if login["by"] != "ec2-instance-connect" or login["request"] or time.monotonic() > deadline:
            return login
        time.sleep(0.1)


def test_one_command_tells_principal_request_user_key_and_cloudtrails_record_of_a_login(
    site: Site,
) -> None:
    identity = site.new_identity()
    request = site.push(identity)
    login = visit(site, identity)
    assert login["by"] == "ec2-instance-connect"
    assert login["principal"] == site.sandbox.principals[0].arn
    assert login["request"] == request
    assert login["os_user"] == site.user
    assert login["instance"] == site.sandbox.instance.id
    record = login["cloudtrail"]
    assert record["requestID"] == request
    assert record["eventName"] == "SendSSHPublicKey"
    assert record["userIdentity"]["arn"] == site.sandbox.principals[0].arn
    assert record["requestParameters"]["osUser"] == site.user
    key = record["requestParameters"]["SSHKey"]["publicKey"].split()[1]
    assert key == identity.public.read_text().split()[1]


def test_a_key_in_a_file_opens_the_login_and_leaves_no_entry_of_ours(site: Site) -> None:
    identity = site.new_identity()
    authorize_in_file(site, identity)
    login = visit(site, identity)
    assert login["by"] == "file"
    assert identity.fingerprint not in site.journal()


def test_a_certificate_opens_the_login_of_its_principal_and_no_other(site: Site) -> None:
    admit_principal(site, "deployers")
    identity = site.new_identity()
    certify(site, identity, "alice", "deployers")
    login = visit(site, identity)
    assert login["by"] == "certificate"
    assert (login["certificate"]["id"], login["certificate"]["serial"]) == ("alice", 7)
    assert '"granted"' not in "".join(
        line for line in site.journal().splitlines() if identity.fingerprint in line
    )
    other = site.new_identity()
    certify(site, other, "bob", "painters")
    refused = visit_ssh(site, other)
    assert PERMISSION_DENIED in refused.said
    assert logins(site, other) == []


def test_a_key_that_is_pushed_while_files_and_certificates_are_there_is_told_apart(
    site: Site,
) -> None:
    admit_principal(site, "deployers")
    pushed, filed, certified = (site.new_identity() for _ in range(3))
    site.push(pushed)
    authorize_in_file(site, filed)
    certify(site, certified, "alice", "deployers")
    found = [visit(site, identity)["by"] for identity in (pushed, filed, certified)]
    assert found == ["ec2-instance-connect", "file", "certificate"]


def test_who_may_not_push_for_root_is_refused_with_auth_exception_and_that_is_on_record(
    site: Site,
) -> None:
    identity = site.new_identity()
    push = ["aws", "ec2-instance-connect", "send-ssh-public-key"]
    push += ["--instance-id", site.sandbox.instance.id, "--instance-os-user", "root"]
    push += ["--ssh-public-key", f"file://{identity.public}"]
    bob = site.sandbox.principals[1]
    refused = site.run(push, site.environment(principal=1))
    assert not refused.ok
    assert "(AuthException)" in refused.said
    assert f"User: {bob.arn} is not authorized to perform" in refused.said
    record = site.sandbox.trail.records()[-1]
    assert record["errorCode"] == "AuthException"
    assert record["requestParameters"] == {
        "instanceId": site.sandbox.instance.id,
        "osUser": "root",
        "SSHKey": {"publicKey": identity.public.read_text()},
    }
    assert "root" not in site.sandbox.instance.metadata.keys


def test_the_cli_learns_who_it_is_and_which_instances_and_endpoints_there_are(site: Site) -> None:
    environment = site.environment(principal=1)
    who = json.loads(site.run(["aws", "sts", "get-caller-identity"], environment).said)
    assert who["Arn"] == site.sandbox.principals[1].arn
    first = site.sandbox.instance
    describe = ["aws", "ec2", "describe-instances", "--instance-ids", first.id]
    described = json.loads(site.run(describe, environment).said)
    (found,) = described["Reservations"][0]["Instances"]
    assert found["PrivateIpAddress"] == first.private_ip
    assert found["Placement"]["AvailabilityZone"] == "us-east-1a"
    describe = ["aws", "ec2", "describe-instance-connect-endpoints"]
    described = json.loads(site.run(describe, environment).said)
    (endpoint,) = described["InstanceConnectEndpoints"]
    assert endpoint["DnsName"] == site.sandbox.endpoint.dns_name
