"""How each client is run: as its documentation has it, and with nothing of the user's own.

`visit` logs in with the key (or copies a file there and back) and says how that went. `denied` is
what the client normally says where the key is not accepted.
"""

import asyncio
import contextlib
import os
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import support
from tests.clients.site import Identity, Outcome, Site

PERMISSION_DENIED = "Permission denied (publickey)"


@dataclass(frozen=True)
class Client:
    """One client; `instances` are the numbers of those for which its key is pushed."""

    name: str
    visit: Callable[[Site, Identity], Outcome]
    denied: str = PERMISSION_DENIED
    instances: tuple[int, ...] = (0,)


def ssh_words(site: Site, identity: Identity | None) -> list[str]:
    """Return ssh's options for one key, the sandbox's host keys, and nobody's own settings."""
    words = site.host.ssh_options()
    if identity is not None:
        words += ["-i", str(identity.path)]
    return words


def _there(site: Site) -> str:
    return f"{site.user}@127.0.0.1"


def _logged_in(site: Site, outcome: Outcome) -> Outcome:
    """Believe in the login only where the command said who it ran as."""
    return Outcome(outcome.ok and f"in as {site.user}" in outcome.said, outcome.said)


SAY_WHO = 'echo "in as $(id -un)"'


def visit_ssh(site: Site, identity: Identity) -> Outcome:
    command = ["ssh", *ssh_words(site, identity), "-p", str(site.host.port), _there(site), SAY_WHO]
    return _logged_in(site, site.run(command))


@dataclass(frozen=True)
class Copy:
    """Files for a copy there and back; the name there is one that nobody else uses."""

    sent: Path
    received: Path
    there: str

    def arrived(self, outcome: Outcome) -> Outcome:
        same = self.received.exists() and self.received.read_bytes() == self.sent.read_bytes()
        return Outcome(outcome.ok and same, outcome.said)


@contextlib.contextmanager
def copying(files: Path) -> Iterator[Copy]:
    """Give files named after these for a copy, and remove in the end what was put there."""
    sent = files.with_suffix(".sent")
    sent.write_bytes(os.urandom(300_000))
    received = files.with_suffix(".received")
    received.unlink(missing_ok=True)
    copy = Copy(sent, received, f"/tmp/eic-{os.getpid()}-{files.name}")
    try:
        yield copy
    finally:
        Path(copy.there).unlink(missing_ok=True)


def visit_scp(site: Site, identity: Identity) -> Outcome:
    with copying(identity.path) as copy:
        scp = ["scp", *ssh_words(site, identity), "-P", str(site.host.port)]
        there = f"{_there(site)}:{copy.there}"
        up = site.run([*scp, str(copy.sent), there])
        down = site.run([*scp, there, str(copy.received)]) if up.ok else up
        return copy.arrived(down)


def visit_sftp(site: Site, identity: Identity) -> Outcome:
    with copying(identity.path) as copy:
        batch = identity.path.with_suffix(".batch")
        batch.write_text(f"put {copy.sent} {copy.there}\nget {copy.there} {copy.received}\n")
        sftp = ["sftp", *ssh_words(site, identity), "-P", str(site.host.port), "-b", str(batch)]
        return copy.arrived(site.run([*sftp, _there(site)]))


def visit_rsync(site: Site, identity: Identity) -> Outcome:
    with copying(identity.path) as copy:
        ssh = shlex.join(["ssh", *ssh_words(site, identity), "-p", str(site.host.port)])
        there = f"{_there(site)}:{copy.there}"
        up = site.run(["rsync", "-e", ssh, str(copy.sent), there])
        down = site.run(["rsync", "-e", ssh, there, str(copy.received)]) if up.ok else up
        return copy.arrived(down)


def visit_proxy_jump(site: Site, identity: Identity) -> Outcome:
    """Go through the first instance to the second, as an ssh_config has it."""
    first, second = site.sandbox.hosts
    # Known hosts are looked up by name and port, and each host has a file of its own.
    config = identity.path.with_suffix(".config")
    config.write_text(
        f"Host bastion\n HostName 127.0.0.1\n Port {first.port}\n"
        f" UserKnownHostsFile {first.directory}/known_hosts\n"
        f"Host inside\n HostName {second.address}\n Port {second.port_inside}\n"
        f" UserKnownHostsFile {second.directory}/known_hosts\n ProxyJump bastion\n"
        f"Host *\n User {site.user}\n IdentityFile {identity.path}\n IdentitiesOnly yes\n"
        " IdentityAgent none\n BatchMode yes\n StrictHostKeyChecking yes\n"
        " GlobalKnownHostsFile /dev/null\n"
    )
    return _logged_in(site, site.run(["ssh", "-F", str(config), "inside", SAY_WHO]))


@contextlib.contextmanager
def ssh_agent(*identities: Identity) -> Iterator[Path]:
    """Run an ssh agent that holds these keys, and give its socket."""
    # Not beside the keys: a socket's path must be short.
    path = Path(f"/tmp/eic-agent-{os.getpid()}-{identities[-1].path.name}")
    command = [support.program("ssh-agent", "openssh-client"), "-D", "-a", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as agent:
        try:
            while not path.exists():
                assert agent.poll() is None
            add = [support.program("ssh-add", "openssh-client"), "-q"]
            add += [str(identity.path) for identity in identities]
            subprocess.run(add, env={**os.environ, "SSH_AUTH_SOCK": str(path)}, check=True)
            yield path
        finally:
            agent.terminate()
            agent.wait()
            path.unlink(missing_ok=True)


def visit_with_agent(site: Site, identity: Identity) -> Outcome:
    """Offer five other keys first, as an agent that has been in use for long does."""
    others = [site.new_identity() for _ in range(5)]
    with ssh_agent(*others, identity) as agent:
        # The first value of an option wins.
        offer = [
            "-o",
            f"IdentityAgent={agent}",
            "-o",
            "IdentitiesOnly=no",
            "-o",
            "IdentityFile=none",
        ]
        command = ["ssh", *offer, *ssh_words(site, None), "-p", str(site.host.port)]
        return _logged_in(site, site.run([*command, _there(site), SAY_WHO]))


def visit_tunnel(site: Site, identity: Identity) -> Outcome:
    """Go through the EC2 Instance Connect Endpoint."""
    proxy = shlex.join([sys.executable, "-m", "eic_sandbox.tunnel_client", "--instance-id", "%h"])
    there = f"{site.user}@{site.sandbox.instance.id}"
    command = ["ssh", *ssh_words(site, identity), "-o", f"ProxyCommand={proxy}", there, SAY_WHO]
    return _logged_in(site, site.run(command))


def visit_paramiko(site: Site, identity: Identity) -> Outcome:
    with warnings.catch_warnings():
        # At import paramiko names ciphers that cryptography has deprecated.
        warnings.simplefilter("ignore")
        import paramiko
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(site.host.directory / "known_hosts"))
        try:
            client.connect(
                "127.0.0.1",
                site.host.port,
                site.user,
                pkey=paramiko.PKey.from_path(identity.path),
                allow_agent=False,
                look_for_keys=False,
            )
        except paramiko.SSHException as error:
            return Outcome(ok=False, said=f"{type(error).__name__}: {error}")
        _, stdout, _ = client.exec_command(SAY_WHO)
        said = stdout.read().decode()
    return _logged_in(site, Outcome(ok=True, said=said))


def visit_asyncssh(site: Site, identity: Identity) -> Outcome:
    with warnings.catch_warnings():
        # At import asyncssh names ciphers that cryptography has deprecated.
        warnings.simplefilter("ignore")
        import asyncssh

    async def visit() -> str:
        async with asyncssh.connect(
            "127.0.0.1",
            site.host.port,
            username=site.user,
            client_keys=[str(identity.path)],
            known_hosts=str(site.host.directory / "known_hosts"),
            agent_path=None,
            config=None,
        ) as connection:
            return str((await connection.run(SAY_WHO)).stdout)

    try:
        said = asyncio.run(visit())
    except asyncssh.Error as error:
        return Outcome(ok=False, said=f"{type(error).__name__}: {error}")
    return _logged_in(site, Outcome(ok=True, said=said))


def visit_ansible(site: Site, identity: Identity) -> Outcome:
    home = identity.path.with_suffix(".ansible")
    home.mkdir(exist_ok=True)
    inventory = home / "inventory"
    inventory.write_text(
        f"box ansible_host=127.0.0.1 ansible_port={site.host.port} ansible_user={site.user} "
        f"ansible_ssh_private_key_file={identity.path} "
        "ansible_python_interpreter=/usr/bin/python3\n"
    )
    environment = {
        **site.environment(),
        "ANSIBLE_HOME": str(home),
        "ANSIBLE_SSH_ARGS": shlex.join(ssh_words(site, None)),
        "ANSIBLE_NOCOLOR": "1",
    }
    ping = ["ansible", "-i", str(inventory), "box", "-m", "ansible.builtin.ping"]
    outcome = site.run(ping, environment)
    return Outcome(outcome.ok and '"ping": "pong"' in outcome.said, outcome.said)


CLIENTS = (
    Client("ssh", visit_ssh),
    Client("scp", visit_scp),
    Client("sftp", visit_sftp),
    Client("rsync", visit_rsync),
    Client("proxy-jump", visit_proxy_jump, instances=(0, 1)),
    Client("ssh-agent", visit_with_agent, denied="Too many authentication failures"),
    Client("tunnel", visit_tunnel),
    Client("paramiko", visit_paramiko, denied="AuthenticationException: Authentication failed."),
    Client("asyncssh", visit_asyncssh, denied="PermissionDenied: Permission denied for user"),
    Client("ansible", visit_ansible),
)


# The clients of AWS's own, which make a key and push it themselves.


def mssh_words(site: Site) -> list[str]:
    """Return the command that logs in with mssh."""
    there = f"{site.user}@{site.sandbox.instance.id}"
    # mssh puts the words together and gives them to a shell.
    command = shlex.quote(SAY_WHO)
    return ["mssh", *site.host.ssh_options(), "-p", str(site.host.port), there, command]


def msftp_words(site: Site, batch: Path) -> list[str]:
    """Return the command that runs this batch of transfers with msftp."""
    there = f"{site.user}@{site.sandbox.instance.id}"
    options = [*site.host.ssh_options(), "-P", str(site.host.port), "-b", str(batch)]
    return ["msftp", *options, there]


def visit_mssh(site: Site) -> Outcome:
    return _logged_in(site, site.run(mssh_words(site)))


def visit_msftp(site: Site) -> Outcome:
    with copying(site.directory / "msftp") as copy:
        batch = site.directory / "msftp.batch"
        batch.write_text(f"put {copy.sent} {copy.there}\nget {copy.there} {copy.received}\n")
        return copy.arrived(site.run(msftp_words(site, batch)))
