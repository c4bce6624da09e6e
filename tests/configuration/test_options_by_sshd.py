"""A real sshd judges the options that the configuration accepts and refuses."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from eic_sandbox.sshd import Sshd
from tests.configuration.options import INVALID, VALID
from tests.support import program


class SshdWithFile(Sshd):
    """An sshd that reads one authorized_keys file and asks nobody."""

    def _configuration(self) -> str:
        lines = super()._configuration().splitlines()
        kept = [line for line in lines if not line.startswith("AuthorizedKeys")]
        return "\n".join([*kept, f"AuthorizedKeysFile {self.authorized_keys}", ""])

    @property
    def authorized_keys(self) -> Path:
        return self.directory / "authorized_keys"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshdWithFile]:
    program("sshd", "openssh-server")
    directory = tmp_path_factory.mktemp("sshd")
    sshd = SshdWithFile(directory, agent_config=directory / "none")
    with sshd:
        yield sshd


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "id_ed25519"
    keygen = program("ssh-keygen", "openssh-client")
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def accepts(sshd: SshdWithFile, key: Path, options: str) -> bool:
    public_key = key.with_suffix(".pub").read_text()
    sshd.authorized_keys.write_text(f"{options} {public_key}".lstrip())
    return "Accepted publickey for " in sshd.login([key], "true").sshd_log


def test_a_key_without_options_is_accepted(sshd: SshdWithFile, key: Path) -> None:
    assert accepts(sshd, key, "")


@pytest.mark.parametrize("option", VALID)
def test_sshd_reads_every_kind_of_option_that_is_accepted(
    sshd: SshdWithFile, key: Path, option: str
) -> None:
    assert accepts(sshd, key, f"{option},pty")


@pytest.mark.parametrize("option", INVALID)
def test_sshd_drops_a_line_with_an_option_that_is_refused(
    sshd: SshdWithFile, key: Path, option: str
) -> None:
    assert not accepts(sshd, key, f"{option},pty")
