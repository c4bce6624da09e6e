"""The SELinux policy module, compiled by the reference policy's own makefile and read as CIL."""

import re
import subprocess
from pathlib import Path

import pytest
from wheels import ROOT

from tests.packages.programs import output
from tests.support import lacking, program

MAKEFILE = Path("/usr/share/selinux/devel/Makefile")
POLICY = ROOT / "packaging" / "rpm" / "selinux"

# Types that the policies of Amazon Linux 2023, Enterprise Linux 9 and 10, Fedora and the reference
# policy all have: a module that requires another one would not load into some of them.
KNOWN_EVERYWHERE = {
    "bin_t",
    "cert_t",
    "daemon",
    "devlog_t",
    "domain",
    "entry_type",
    "etc_t",
    "exec_type",
    "file_type",
    "http_port_t",
    "init_t",
    "non_auth_file_type",
    "non_security_file_type",
    "nsswitch_domain",
    "proc_t",
    "sysctl_crypto_t",
    "sysctl_t",
    "sysfs_t",
    "syslogd_t",
    "usr_t",
}


@pytest.fixture(scope="module")
def cil(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the module says, in SELinux's common intermediate language."""
    program("checkmodule", "checkpolicy")
    converter = Path("/usr/libexec/selinux/hll/pp")
    for path, package in ((MAKEFILE, "selinux-policy-dev"), (converter, "policycoreutils")):
        if not path.exists():
            lacking(str(path), f"apt-get install {package}")
    directory = tmp_path_factory.mktemp("selinux")
    for source in POLICY.iterdir():
        (directory / source.name).write_bytes(source.read_bytes())
    made = subprocess.run(
        ["make", "-f", MAKEFILE, "-C", directory, "eic_agent.pp"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert "arning" not in made.stdout + made.stderr
    return output(converter, directory / "eic_agent.pp")


def _outside_optional_blocks(cil: str) -> str:
    return re.sub(r"^\(optional .*?^\)\n", "", cil, flags=re.MULTILINE | re.DOTALL)


def _allowed(cil: str, source: str) -> set[tuple[str, str, str]]:
    """Who may do what to whom: target, class and each permission."""
    rules = re.findall(rf"\(allow {source} (\w+) \((\w+) \(([^)]*)\)\)\)", cil)
    return {(target, kind, one) for target, kind, many in rules for one in many.split()}


def test_it_needs_only_names_that_every_policy_has(cil: str) -> None:
    required = re.findall(r"typeattributeset cil_gen_require (\w+)", _outside_optional_blocks(cil))
    assert set(required) <= KNOWN_EVERYWHERE


def test_of_its_own_the_agent_may_connect_to_port_80_and_to_no_other(cil: str) -> None:
    connects = {
        (target, kind)
        for target, kind, one in _allowed(cil, "eic_agent_t")
        if one in ("name_connect", "name_bind")
    }
    assert connects == {("http_port_t", "tcp_socket")}


def test_the_agent_may_write_only_to_sockets_and_pipes(cil: str) -> None:
    """Nor to anything of sshd's but the pipe that it answers on."""
    written = {
        kind
        for _, kind, one in _allowed(cil, "eic_agent_t")
        if one in ("write", "append", "create", "unlink", "rename", "setattr")
    }
    assert written == {
        "fifo_file",
        "sock_file",
        "tcp_socket",
        "udp_socket",
        "unix_dgram_socket",
        "unix_stream_socket",
    }


def test_the_agent_has_no_capability(cil: str) -> None:
    assert not {kind for _, kind, _ in _allowed(cil, "eic_agent_t") if "capability" in kind}


def test_systemd_starts_the_service_in_its_domain_without_new_privileges(cil: str) -> None:
    outside = _outside_optional_blocks(cil)
    assert "(typetransition init_t eic_agent_exec_t process eic_agent_t)" in outside
    assert ("eic_agent_t", "process2", "nnp_transition") in _allowed(outside, "init_t")


@pytest.mark.parametrize("sshd", ["sshd_t", "sshd_session_t"])
def test_sshd_may_ask_the_service_and_run_a_lookup_in_the_agents_domain(
    cil: str, sshd: str
) -> None:
    """Each of the two names is missing from some policy, and the module loads all the same."""
    assert sshd not in _outside_optional_blocks(cil)
    assert f"(typetransition {sshd} eic_agent_exec_t process eic_agent_t)" in cil
    assert _allowed(cil, sshd) >= {
        ("eic_agent_t", "unix_stream_socket", "connectto"),
        ("eic_agent_runtime_t", "sock_file", "write"),
        ("eic_agent_exec_t", "file", "execute"),
        ("eic_agent_t", "process", "transition"),
        ("eic_agent_t", "process2", "nnp_transition"),
    }
    assert ("eic_agent_exec_t", "file", "execute_no_trans") not in _allowed(cil, sshd)


@pytest.mark.parametrize(
    ("path", "type_"),
    [
        ("/usr/bin/eic-agent", "eic_agent_exec_t"),
        ("/run/eic-agent", "eic_agent_runtime_t"),
        ("/run/eic-agent/agent.sock", "eic_agent_runtime_t"),
        ("/var/run/eic-agent/agent.sock", "eic_agent_runtime_t"),
        ("/usr/libexec/eic-agent/eic-authorized-keys", None),
        ("/usr/lib/eic-agent/eic_agent/cli.py", None),
    ],
)
def test_only_the_launcher_and_the_socket_are_labelled(path: str, type_: str | None) -> None:
    """The client stays what it is by default, so that sshd runs it in its own domain."""
    lines = (POLICY / "eic_agent.fc").read_text().splitlines()
    found = [
        re.findall(r"object_r:(\w+),", line)[0]
        for line in lines
        if line.startswith("/") and re.fullmatch(line.split()[0], path)
    ]
    assert found == ([type_] if type_ else [])
