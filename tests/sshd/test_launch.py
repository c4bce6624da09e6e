"""Command lines of sshd are found in units, environment files and titles of processes."""

from pathlib import Path

import pytest

from eic_agent.sshd.launch import (
    Launch,
    ProgramFailed,
    Systemd,
    UnitState,
    launch_of_unit,
    run,
)

SSH_SERVICE = """\
# /usr/lib/systemd/system/ssh.service
[Unit]
Description=OpenBSD Secure Shell server
[Service]
EnvironmentFile=-{environment}
ExecStartPre=/usr/sbin/sshd -t
ExecStart=/usr/sbin/sshd -D $SSHD_OPTS
ExecReload=/bin/kill -HUP $MAINPID
"""
AWS_DROP_IN = """\

# /usr/lib/systemd/system/ssh.service.d/ec2-instance-connect.conf
[Service]
ExecStart=
ExecStart=/usr/sbin/sshd -D -o "AuthorizedKeysCommand /usr/share/ec2-instance-connect/\
eic_run_authorized_keys %%u %%f" -o "AuthorizedKeysCommandUser ec2-instance-connect" $SSHD_OPTS
"""


def service(command: str, *settings: str) -> Launch | None:
    lines = ["# /etc/systemd/system/x.service", "[Service]", *settings, f"ExecStart={command}"]
    return launch_of_unit("x.service", "\n".join(lines))


def options(command: str, *settings: str) -> tuple[str, ...]:
    launch = service(command, *settings)
    assert launch is not None
    return launch.options


def test_the_option_of_awss_package_is_found_with_the_file_that_has_it(tmp_path: Path) -> None:
    environment = tmp_path / "ssh"
    launch = launch_of_unit(
        "ssh.service", SSH_SERVICE.format(environment=environment) + AWS_DROP_IN
    )
    assert launch is not None
    assert launch.option("authorizedkeyscommand") == (
        "/usr/share/ec2-instance-connect/eic_run_authorized_keys %u %f"
    )
    assert launch.option("authorizedkeyscommanduser") == "ec2-instance-connect"
    assert launch.option("port") is None
    assert launch.source == (
        "ssh.service (/usr/lib/systemd/system/ssh.service.d/ec2-instance-connect.conf, "
        f"{environment})"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("SSHD_OPTS=", ()),
        ("SSHD_OPTS='-o Port=1 -oBanner=none'", ("Port=1", "Banner=none")),
        ('SSHD_OPTS=-4 -o "Banner /a b"', ("Banner /a b",)),
        ('SSHD_OPTS="-o \\"Banner /a b\\""', ("Banner /a b",)),
        ("#SSHD_OPTS=-o Port=1", ()),
        ("SSHD_OPTS=-4 \\\n -o Port=1", ("Port=1",)),
    ],
)
def test_environment_files_are_read(tmp_path: Path, line: str, expected: tuple[str, ...]) -> None:
    environment = tmp_path / "ssh"
    environment.write_text(f"# Options\n\n{line}\n")
    launch = launch_of_unit("ssh.service", SSH_SERVICE.format(environment=environment))
    assert launch is not None
    assert launch.options == expected


def test_command_lines_are_split_and_expanded_as_by_systemd() -> None:
    sshd = "/usr/sbin/sshd"
    assert options(f"-{sshd} -D -o 'Port 1'") == ("Port 1",)
    assert options(f"@{sshd} sshd -o Port=$$1%%") == ("Port=$1%",)
    assert options(f"{sshd} -o ${{A}}x $B", 'Environment="A=Port 1" B=-oC=d') == ("Port 1x", "C=d")
    assert options(f"{sshd} -o A=1 $B", "Environment=B=-oC=d", "Environment=") == ("A=1",)
    assert options(f"{sshd} -D \\\n# note\n  -o A=1") == ("A=1",)
    assert options(f"{sshd} -o 'open") == ("'open",)
    assert options(f"{sshd} $B", 'Environment="B=-o \'open"') == ("'open",)


def test_sshds_own_options_are_told_apart_as_by_getopt() -> None:
    launch = service("/usr/sbin/sshd -4Def /etc/x -p 22 -o A=1 -oB=2 -Do C=3 -- -o D=4")
    assert launch == Launch(
        "x.service (/etc/systemd/system/x.service)", ("A=1", "B=2", "C=3"), "/etc/x"
    )


def test_sshd_behind_a_wrapper_is_found_and_another_program_is_not() -> None:
    assert options("/usr/bin/numactl -N 0 /usr/sbin/sshd -o A=1") == ("A=1",)
    assert service("/usr/sbin/dropbear -o A=1") is None
    assert service("") is None


def test_the_first_option_wins_and_is_read_as_a_line_of_a_file() -> None:
    launch = Launch("", ("# x", "Port 1", "PORT=2", "authorizedkeyscommand = /x  %u"))
    assert launch.option("port") == "1"
    assert launch.option("authorizedkeyscommand") == "/x  %u"


# --- systemd's programs -----------------------------------------------------


@pytest.fixture
def fake_systemd(tmp_path: Path) -> Systemd:
    """Make programs that answer from files and write down how they were called."""
    (tmp_path / "units").mkdir()
    program = f"""#!/bin/sh
echo "$0 $*" >> {tmp_path}/calls
for last; do :; done
case "$1" in
cat|cat-config) cat "{tmp_path}/units/${{last##*/}}" ;;
show) cat "{tmp_path}/units/$last.state" ;;
esac
"""
    for name in ("systemctl", "systemd-analyze"):
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    return Systemd(tmp_path / "systemctl", tmp_path / "systemd-analyze", tmp_path / "booted")


@pytest.mark.parametrize("booted", [True, False])
def test_units_are_asked_of_systemd_or_read_by_it_where_none_runs(
    tmp_path: Path, fake_systemd: Systemd, booted: bool
) -> None:
    if booted:
        fake_systemd.booted.mkdir()
    text = "[Service]\nExecStart=/usr/sbin/sshd -D\n"
    (tmp_path / "units/ssh.service").write_text(text)
    (tmp_path / "units/sshd.service").write_text(text)
    (tmp_path / "units/ssh@.service").write_text("[Service]\nExecStart=/usr/sbin/sshd -i -o A=1\n")
    assert [(one.source, one.options) for one in fake_systemd.launches()] == [
        ("ssh.service ()", ()),
        ("ssh@.service ()", ("A=1",)),
    ]
    calls = (tmp_path / "calls").read_text()
    assert ("systemctl cat ssh.service" in calls) == booted
    assert ("systemd-analyze cat-config systemd/system/ssh.service" in calls) != booted


def test_states_are_known_by_the_units_own_name(tmp_path: Path, fake_systemd: Systemd) -> None:
    shown = (
        "Id=ssh.service\nActiveState=active\nMainPID=812\nLoadState=loaded\n"
        "KillMode=process\nTriggeredBy=a.socket b.socket\n"
    )
    for unit in ("ssh.service", "sshd.service"):
        (tmp_path / f"units/{unit}.state").write_text(shown)
    (tmp_path / "units/no.service.state").write_text(
        "Id=no.service\nActiveState=inactive\nMainPID=0\nLoadState=not-found\n"
    )
    units = ("ssh.service", "sshd.service", "no.service", "unknown.service")
    assert fake_systemd.states(*units) == ()
    fake_systemd.booted.mkdir()
    assert fake_systemd.states(*units) == (
        UnitState("ssh.service", "active", 812, "process", ("a.socket", "b.socket")),
    )


def test_a_machine_without_systemd_has_no_units(tmp_path: Path) -> None:
    absent = Systemd(tmp_path / "no", tmp_path / "no", tmp_path)
    assert absent.launches() == ()
    assert absent.states("ssh.service") == ()
    with pytest.raises(ProgramFailed, match="No such file"):
        absent.reload("ssh.service")


def test_a_failed_program_is_known_by_what_it_said() -> None:
    with pytest.raises(ProgramFailed, match=r"^sorry$"):
        run(["/bin/sh", "-c", "echo sorry >&2; exit 3"])
    with pytest.raises(ProgramFailed, match="status 3"):
        run(["/bin/sh", "-c", "exit 3"])
