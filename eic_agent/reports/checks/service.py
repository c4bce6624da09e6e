"""Units, the running agent, the journal and the package's files."""

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from eic_agent.lookup.users import exists
from eic_agent.reports import wire
from eic_agent.reports.checks.check import Check, Finding, error, not_seen, ok, warning
from eic_agent.sshd.launch import Systemd

_AGENT_USER = "eic-agent"
_VERIFY_S = 20.0
_DPKG_LISTS = Path("/var/lib/dpkg/info")
_DPKG, _RPM = Path("/usr/bin/dpkg"), Path("/usr/bin/rpm")
_PERSISTENT = Path("/var/log/journal")


def checks(systemd: Systemd, running: Mapping[str, Any] | None) -> Iterable[Check]:
    """Give the checks; `running` is what the running agent says of itself, if one answers."""
    yield Check("units", lambda: _units(systemd))
    yield Check("user eic-agent", _user)
    if running is not None:
        yield Check("running agent", lambda: _running(running))
    yield Check("journal", lambda: _journal(running))
    yield Check("files of the package", _files)


def _units(systemd: Systemd) -> Iterator[Finding]:
    states = wire.unit_states(systemd)
    if not states:
        yield warning("no systemd runs this machine", "Each lookup takes a process of its own")
        return
    socket, service = states.get(wire.SOCKET, "unknown"), states.get(wire.SERVICE, "unknown")
    if socket != "active":
        unmask = f"systemctl unmask {wire.SOCKET}; " if socket == "masked" else ""
        yield error(
            f"{wire.SOCKET} is {socket}: each lookup starts a process of its own, and is slow",
            f"{unmask}systemctl enable --now {wire.SOCKET}",
        )
    if service == "failed":
        yield error(
            f"{wire.SERVICE} has failed", f"See why with `journalctl --boot --unit={wire.SERVICE}`"
        )
    elif service == "masked":
        yield error(f"{wire.SERVICE} is masked", f"systemctl unmask {wire.SERVICE}")
    elif socket == "active":
        yield ok(f"{wire.SOCKET} listens, {wire.SERVICE} is {service}")


def _user() -> Iterator[Finding]:
    if exists(_AGENT_USER):
        yield ok("exists")
    else:
        yield error(f"there is no user {_AGENT_USER}", "Run `systemd-sysusers`")


def _running(running: Mapping[str, Any]) -> Iterator[Finding]:
    invalid = running.get("invalid_config")
    if invalid:
        yield error(
            f"what the running agent read is invalid, so it grants nothing: {invalid}",
            "Mend the file (`eic-agent config check`), then `systemctl reload eic-agent`",
        )
        return
    lost = running.get("journal_entries_lost", 0)
    if lost:
        yield warning(
            f"{lost} journal entries were lost since it started",
            "See whether systemd-journald runs, and who fills the journal",
        )
    signer = running.get("signer")
    holds = f", its signer proved for {signer['holds_s']:.0f} s" if signer else ""
    yield ok(f"up for {running['uptime_s']:.0f} s, its configuration valid{holds}")


def _journal(running: Mapping[str, Any] | None) -> Iterator[Finding]:
    if not Path("/run/systemd/journal/socket").exists():
        yield error("systemd-journald does not run", "systemctl start systemd-journald")
    elif not _PERSISTENT.is_dir():
        yield warning(
            "the journal is not kept across a reboot: who came in before it is then lost",
            f"mkdir {_PERSISTENT} && systemctl restart systemd-journald",
        )
    elif running is None or not running.get("journal_entries_lost"):
        yield ok("kept across reboots")


def _files() -> Iterator[Finding]:
    manager = _DPKG if any(_DPKG_LISTS.glob("eic-agent*.list")) else _RPM
    if not manager.exists():
        yield ok("not installed by a package")
        return
    argv = (str(manager), "--verify", "eic-agent")
    if os.geteuid() != 0:
        yield not_seen("whether files of the package were changed")
        return
    try:
        done = subprocess.run(  # noqa: S603  # a fixed line
            argv, capture_output=True, text=True, timeout=_VERIFY_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        yield warning(f"they could not be compared: {problem}", f"Run `{' '.join(argv)}`")
        return
    if "is not installed" in done.stdout:
        yield ok("not installed by a package")
        return
    lines = [line.split(None, 1) for line in done.stdout.splitlines() if " c " not in line]
    # A missing manual page, where an image leaves those out, costs nobody a login.
    changed = [words[-1].strip() for words in lines if "/share/" not in words[-1]]
    if changed:
        yield error(
            f"changed since the installation: {', '.join(changed[:5])}", "Reinstall eic-agent"
        )
    else:
        yield ok("as they were installed")
