"""A configuration of sshd in a directory of its own, about which the real sshd is asked."""

import os
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eic_agent.sshd import status, wiring
from eic_agent.sshd.launch import Systemd
from eic_agent.sshd.survey import SshdPaths, System
from tests.support import program

# A program that sshd would run on every machine; these tests never run it.
CLIENT = Path("/usr/bin/true").resolve()
DEBIAN = "Include {etc}/sshd_config.d/*.conf\nKbdInteractiveAuthentication no\nUsePAM yes\n"


def sshd_shows(main: Path, key: Path, *options: str) -> dict[str, str]:
    """Ask sshd, not by way of the code under test; fails where it does not accept the file."""
    argv = [program("sshd", "openssh-server"), "-T", "-f", str(main), "-h", str(key), *options]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(line.partition(" ")[::2] for line in done.stdout.splitlines())


@dataclass
class Machine:
    """Files of sshd and of eic-agent; sshd and its user database are the real ones."""

    root: Path
    key: Path
    system: System = field(init=False)

    def __post_init__(self) -> None:
        for name in ("etc/ssh/sshd_config.d", "etc/eic-agent/config.d", "proc", "run", "units"):
            (self.root / name).mkdir(parents=True)
        paths = SshdPaths(
            main=self.etc / "sshd_config",
            drop_in=self.etc / "sshd_config.d/00-eic-agent.conf",
            include_base=Path("/etc/ssh"),
            sshd=Path(program("sshd", "openssh-server")),
            keygen=Path(program("ssh-keygen", "openssh-client")),
            client=CLIENT,
            snippet=self.root / "etc/eic-agent/config.d/50-sshd-wiring.toml",
            disabled=self.root / "etc/eic-agent/sshd-disabled",
            former=self.etc / "sshd_config.d/10-eic-agent.conf",
            enabled=self.root / "etc/eic-agent/sshd-enabled",
            proc=self.root / "proc",
            run=self.root / "run",
            systemd=Systemd(
                self.root / "systemctl", self.root / "systemd-analyze", self.root / "booted"
            ),
        )
        self.system = System(paths, user="nobody")
        self.write("sshd_config", DEBIAN)

    @property
    def etc(self) -> Path:
        return self.root / "etc/ssh"

    @property
    def drop_in(self) -> Path:
        return self.system.paths.drop_in

    def write(self, name: str, text: str) -> Path:
        """Write a file below etc/ssh; {etc} in it is that directory."""
        path = self.etc / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace("{etc}", str(self.etc)))
        return path

    def files(self) -> dict[str, tuple[bytes, int, int, int]]:
        """Everything below etc, with mode and owner."""
        return {
            str(path.relative_to(self.root)): (
                b"" if path.is_dir() else path.read_bytes(),
                stat.S_IMODE(path.lstat().st_mode),
                path.lstat().st_uid,
                path.lstat().st_gid,
            )
            for path in (self.root / "etc").rglob("*")
        }

    def effective(self, *options: str) -> tuple[str, str]:
        """AuthorizedKeysCommand and its user, as sshd itself shows them."""
        shown = sshd_shows(self.system.paths.main, self.key, *options)
        return shown["authorizedkeyscommand"], shown["authorizedkeyscommanduser"]

    def enable(
        self,
        *,
        edit_main_file: bool = False,
        unless_disabled: bool = False,
        permit_environment: bool = False,
    ) -> str:
        """Enable, which must succeed; return what is told."""
        outcome = wiring.enable(
            self.system,
            edit_main_file=edit_main_file,
            unless_disabled=unless_disabled,
            permit_environment=permit_environment,
        )
        assert outcome.exit_status == 0, outcome
        return wiring.outcome_text(outcome)

    def refused(self, *, edit_main_file: bool = False) -> str:
        """Try to enable, which must change nothing at all; return why not."""
        before = self.files()
        outcome = wiring.enable(self.system, edit_main_file=edit_main_file)
        assert (outcome.exit_status, outcome.changed) == (1, False)
        assert self.files() == before
        assert status.find(self.system).problems
        return wiring.outcome_text(outcome)

    def disable(self, *, by_admin: bool = False) -> str:
        """Disable, which must succeed; return what is told."""
        outcome = wiring.disable(self.system, by_admin=by_admin)
        assert outcome.exit_status == 0, outcome
        return wiring.outcome_text(outcome)

    def run_systemd(self, program_text: str) -> Path:
        """Let systemd run here, with this shell script as systemctl; return where it is called."""
        calls = self.root / "calls"
        calls.touch()
        systemctl = self.system.paths.systemd.systemctl
        systemctl.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n{program_text}\n')
        systemctl.chmod(0o755)
        self.system.paths.systemd.booted.mkdir(exist_ok=True)
        return calls


@pytest.fixture(scope="session")
def host_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key"
    keygen = program("ssh-keygen", "openssh-client")
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@pytest.fixture(scope="session")
def sshd_folder() -> None:
    """Other tests run an sshd at the same time, so its directory must not come and go with us."""
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)


@pytest.fixture
def machine(tmp_path: Path, host_key: Path, sshd_folder: None) -> Machine:
    return Machine(tmp_path, host_key)
