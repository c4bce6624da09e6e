"""A machine that takes itself for an EC2 instance: it has the metadata service at its address."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

from eic_sandbox.simulator import MetadataSimulator, PushedKey
from eic_sandbox.simulator.host import write_config, write_sysfs
from eic_sandbox.simulator.ssh_keys import SSHKey, new_key
from tests.machine.machine import Machine

METADATA_ADDRESS = "169.254.169.254"
CONFIG_DIRECTORY = "/etc/eic-agent/config.d"
# A container has no DMI of its own, and the simulator's signer has no certificate of Amazon's.
SYSFS = "/srv/simulated/sys"
ANCHORS = "/srv/simulated/anchors.pem"


@dataclass(frozen=True)
class Identity:
    """A private key of a user's, and the means to log in with it."""

    instance: "Instance"
    user: str
    key: SSHKey

    def log_in(self, *, user: str | None = None) -> CompletedProcess[str]:
        """Log in by ssh as this user or another one, and print who one is."""
        path = self.instance.directory / f"id-{self.key.fingerprint[-10:].replace('/', '_')}"
        path.write_bytes(self.key.private_openssh)
        path.chmod(0o600)
        return self.instance.machine.ssh(user or self.user, path, "id", "-un")


@dataclass(frozen=True)
class Pushed(Identity):
    """One whose public key was pushed, in this block."""

    block: PushedKey


@dataclass
class Instance:
    """A booted machine, the metadata service that it sees, and SSH keys to push there."""

    machine: Machine
    metadata: MetadataSimulator
    directory: Path
    _serving: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def reboot(self) -> None:
        """Reboot, with the metadata service there again afterwards."""
        self.machine.reboot()
        self._serving.close()
        self.serve()

    def serve(self) -> None:
        """Answer at the metadata service's own address in the machine's network."""
        self.machine.run("ip", "address", "replace", METADATA_ADDRESS + "/32", "dev", "lo")
        with self.machine.network():
            self._serving.enter_context(self.metadata.serve(METADATA_ADDRESS, 80))

    def stop_serving(self) -> None:
        """Leave nobody at the metadata service's address."""
        self._serving.close()

    def configure(self, name: str, **tables: Mapping[str, object]) -> None:
        """Put a file into config.d."""
        written = write_config(self.directory / name, tables)
        self.machine.write(f"{CONFIG_DIRECTORY}/{name}", written.read_bytes())
        # The agent has read what was there when the machine booted, where it is installed.
        self.machine.run("systemctl", "try-reload-or-restart", "eic-agent.service", check=False)

    def push(self, user: str = "alice") -> Pushed:
        """Push a new key for the user, as `aws ec2-instance-connect send-ssh-public-key` does."""
        key = new_key()
        return Pushed(self, user, key, self.metadata.push(user, key))

    def authorized_in_file(self, user: str) -> Identity:
        """Make a key and put it into the user's authorized_keys file; nothing is pushed."""
        key = new_key()
        path = f"/home/{user}/.ssh/authorized_keys"
        self.machine.write(path, key.line + "\n")
        self.machine.run("chown", "--recursive", f"{user}:", f"/home/{user}/.ssh")
        return Identity(self, user, key)

    def push_and_log_in(self, user: str = "alice") -> CompletedProcess[str]:
        """Push a new key and log in with it at once."""
        return self.push(user).log_in()

    def entries(self, *matches: str) -> list[dict[str, str]]:
        """Return the agent's journal entries that match, oldest first, from the fallback too."""
        return self.machine.journal("SYSLOG_IDENTIFIER=eic-agent", *matches)

    def decisions(self) -> list[dict[str, str]]:
        """Return the journal's entries about keys granted or refused, oldest first."""
        return [entry for entry in self.entries() if "EIC_DECISION" in entry]


@contextlib.contextmanager
def simulated(machine: Machine, directory: Path) -> Iterator[Instance]:
    """Make an instance of a booted machine; nothing in it but its configuration knows that."""
    instance = Instance(machine, MetadataSimulator(), directory)
    sysfs = write_sysfs(directory / "sys", "nitro", instance.metadata.instance_id)
    machine.copy_in(sysfs, SYSFS)
    machine.write(ANCHORS, instance.metadata.anchors_pem)
    instance.configure(
        "50-simulated.toml", identity={"sysfs_root": SYSFS}, trust={"anchors": ANCHORS}
    )
    try:
        instance.serve()
        yield instance
    finally:
        instance.stop_serving()
