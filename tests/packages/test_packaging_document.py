"""docs/packaging.md: its commands are run, and its examples read by what they are for."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import hcl2
import pytest
import yaml
from wheels import ROOT

from eic_agent import __version__
from eic_agent.configuration import config
from tests.packages.programs import output
from tests.support import program

DOCUMENT = (ROOT / "docs" / "packaging.md").read_text("utf-8")
KEY = "packages@example.com"


def _block(heading: str, language: str) -> str:
    """The first block in this language of the section with this heading."""
    section = re.split(rf"^## {heading}$", DOCUMENT, flags=re.MULTILINE)[1].split("\n## ")[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    return next(str(content) for named, content in blocks if named == language)


@pytest.fixture(scope="module")
def gnupg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a gpg that has the key of the examples."""
    gpg = program("gpg", "gnupg")
    home = tmp_path_factory.mktemp("gnupg")
    home.chmod(0o700)
    options = ["--batch", "--quiet", "--passphrase", "", "--quick-generate-key", KEY, "rsa2048"]
    subprocess.run([gpg, "--homedir", home, *options], check=True, stderr=subprocess.DEVNULL)
    return home


def _run(script: str, directory: Path, gnupg: Path) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
        env={"PATH": os.environ["PATH"], "GNUPGHOME": str(gnupg), "HOME": str(directory)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _dist(directory: Path, packages: dict[str, Path]) -> None:
    (directory / "dist").mkdir()
    for path in packages.values():
        shutil.copy(path, directory / "dist" / path.name)


def test_an_apt_repository_is_hosted_as_it_says(
    debs: dict[str, Path], gnupg: Path, tmp_path: Path
) -> None:
    program("apt-ftparchive", "apt-utils")
    _dist(tmp_path, debs)
    _run(_block("Hosting an apt repository", "sh"), tmp_path, gnupg)

    sources = _block("Hosting an apt repository", "")
    sources = sources.replace("https://packages.example.com", f"file:{tmp_path}")
    sources = sources.replace("/etc/apt/keyrings", f"{tmp_path}/apt")
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "eic-agent.sources").write_text(sources)
    (tmp_path / "state/lists/partial").mkdir(parents=True)
    (tmp_path / "cache/archives/partial").mkdir(parents=True)
    (tmp_path / "status").touch()
    options = {
        "APT::Sandbox::User": "",
        "Dir::Cache": tmp_path / "cache",
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": tmp_path / "sources.list.d",
        "Dir::State": tmp_path / "state",
        "Dir::State::Status": tmp_path / "status",
    }
    options_of_all = [f"--option={name}={value}" for name, value in options.items()]
    for architecture in debs:
        apt = [*options_of_all, f"--option=APT::Architecture={architecture}"]
        output("apt-get", *apt, "--error-on=any", "update")
        assert f" {__version__} " in output("apt-cache", *apt, "madison", "eic-agent")
        where = output("apt-get", *apt, "--print-uris", "download", "eic-agent")
        assert f"pool/eic-agent_{__version__}_{architecture}.deb" in where


def test_a_yum_repository_is_hosted_as_it_says(
    rpms: dict[str, Path], gnupg: Path, tmp_path: Path
) -> None:
    program("createrepo_c", "createrepo-c")
    program("rpmsign", "rpm")
    _dist(tmp_path, rpms)
    _run(_block("Hosting a yum repository", "sh"), tmp_path, gnupg)

    (primary,) = (tmp_path / "yum" / "repodata").glob("*-primary.xml*")
    text = output("zcat" if primary.suffix == ".gz" else "zstdcat", primary)
    namespace = "{http://linux.duke.edu/metadata/common}"
    packages = ET.fromstring(text).findall(f"{namespace}package")
    assert sorted(
        (one.findtext(f"{namespace}name"), one.findtext(f"{namespace}arch")) for one in packages
    ) == [
        ("eic-agent", "aarch64"),
        ("eic-agent", "src"),
        ("eic-agent", "x86_64"),
        ("eic-agent-selinux", "noarch"),
    ]
    keys = f"--dbpath={tmp_path / 'keys'}"
    output("rpmkeys", keys, "--import", tmp_path / "yum" / "RPM-GPG-KEY-eic-agent")
    for package in (tmp_path / "yum").glob("*.rpm"):
        assert "digests signatures OK" in output("rpmkeys", keys, "--checksig", package)
    repomd = tmp_path / "yum" / "repodata" / "repomd.xml"
    _run(f"gpg --verify {repomd}.asc {repomd}", tmp_path, gnupg)

    repository = configparser.ConfigParser()
    repository.read_string(_block("Hosting a yum repository", "ini"))
    assert repository["eic-agent"].getboolean("gpgcheck")


def test_the_packer_template_installs_the_file_that_it_copies() -> None:
    template = hcl2.loads(_block("Baking it into an AMI with Packer", "hcl"))
    file, shell = template["build"][0]["provisioner"]
    copied = re.findall(r"/tmp/[\w.-]+", str(file))
    assert copied
    assert set(re.findall(r"/tmp/[\w.-]+", str(shell))) == set(copied)


def test_the_agent_takes_the_line_for_images_of_china(tmp_path: Path) -> None:
    (tmp_path / "config.d").mkdir()
    script = _block("Baking it into an AMI with Packer", "sh").replace("sudo ", "")
    subprocess.run(
        ["bash", "-euc", script.replace("/etc/eic-agent", str(tmp_path))], check=True, cwd=tmp_path
    )
    assert config.load(tmp_path / "config.toml").config.trust.anchors == "system"


@pytest.mark.parametrize(
    "content",
    [
        yaml.safe_load(_block("User data", "yaml"))["write_files"][0]["content"],
        yaml.safe_load(_block("Ansible", "yaml"))[0]["tasks"][1]["ansible.builtin.copy"]["content"],
    ],
    ids=["user data", "Ansible"],
)
def test_the_agent_takes_the_configuration_of_the_examples(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(content)
    loaded = config.load(path)
    assert loaded.warnings == ()
    assert loaded.config.policy.callers[0].users == ("root",)


def test_ansible_takes_the_playbook(tmp_path: Path) -> None:
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(_block("Ansible", "yaml"))
    ansible = Path(sys.executable).with_name("ansible-playbook")
    said = output(
        *(ansible, "--syntax-check", "--inventory", "localhost,", playbook),
        HOME=str(tmp_path),
        ANSIBLE_LOCALHOST_WARNING="false",
    )
    assert "playbook.yml" in said
