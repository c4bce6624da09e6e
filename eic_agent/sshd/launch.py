"""How sshd is started: the options in systemd's units beat every file."""

import contextlib
import glob
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eic_agent.errors import EicAgentError
from eic_agent.sshd.files import decode, parse_line

# Amazon's and Debian's per-connection units included: ssh.socket may start those.
_UNITS = ("ssh.service", "sshd.service", "ssh@.service", "sshd@.service")
_WITH_VALUE = "CEbcfghkopu"  # sshd's options that take a value
_PROPERTIES = "Id,LoadState,ActiveState,MainPID,KillMode,TriggeredBy"
_TIMEOUT_S = 60.0


class ProgramFailed(EicAgentError):
    """A program could not be run or failed; the text holds what it printed as its error."""


def run(argv: Sequence[str | Path]) -> str:
    """Run a system program and return its standard output; raises ProgramFailed."""
    try:
        done = subprocess.run(  # noqa: S603  # absolute programs, arguments never through a shell
            [os.fspath(word) for word in argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramFailed(str(error)) from error
    if done.returncode != 0:
        said = decode(done.stderr).strip()
        raise ProgramFailed(said or f"{argv[0]} ended with status {done.returncode}")
    return decode(done.stdout)


@dataclass(frozen=True, slots=True)
class Launch:
    """One command line of sshd: a unit's, or a running listener's (then with its process id)."""

    source: str
    options: tuple[str, ...] = ()  # values of -o
    config: str | None = None  # value of -f
    pid: int | None = None

    def option(self, keyword: str) -> str | None:
        """Return the value that -o gives a keyword (in lower case); the first wins."""
        for option in self.options:
            parsed = parse_line(option)
            if parsed is not None and parsed[0] == keyword:
                return parsed[1]
        return None


@dataclass(frozen=True, slots=True)
class UnitState:
    """What systemd says of a unit; the id is its own name, also where an alias was asked for."""

    id: str
    active: str
    main_pid: int = 0
    kill_mode: str = ""
    triggered_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Systemd:
    """systemd's programs, as far as they are there: every answer is empty where they are not."""

    systemctl: Path = Path("/usr/bin/systemctl")
    analyze: Path = Path("/usr/bin/systemd-analyze")
    booted: Path = Path("/run/systemd/system")  # exists where systemd runs this machine

    def launches(self) -> tuple[Launch, ...]:
        """Return the command lines in sshd's units, also where no systemd runs (image builds)."""
        found: dict[str, Launch] = {}
        for unit in _UNITS:
            text = self._unit_text(unit)
            launch = launch_of_unit(unit, text) if text else None
            if launch is not None:
                found.setdefault(text, launch)  # sshd.service may be an alias of ssh.service
        return tuple(found.values())

    def states(self, *units: str) -> tuple[UnitState, ...]:
        """Return the units that systemd has loaded, aliases once."""
        if not self.booted.exists():
            return ()
        found: dict[str, UnitState] = {}
        for unit in units:
            try:
                text = run([self.systemctl, "show", "-p", _PROPERTIES, unit])
            except ProgramFailed:
                continue
            shown = dict(line.partition("=")[::2] for line in text.splitlines())
            if shown.get("LoadState") == "loaded":
                found[shown["Id"]] = UnitState(
                    id=shown["Id"],
                    active=shown["ActiveState"],
                    main_pid=int(shown.get("MainPID") or 0),
                    kill_mode=shown.get("KillMode", ""),
                    triggered_by=tuple(shown.get("TriggeredBy", "").split()),
                )
        return tuple(found.values())

    def reload(self, unit: str) -> None:
        """Let a running unit read its configuration again; raises ProgramFailed."""
        run([self.systemctl, "reload", unit])

    def stop(self, unit: str) -> None:
        """Stop a unit; raises ProgramFailed."""
        run([self.systemctl, "stop", unit])

    def _unit_text(self, unit: str) -> str:
        if self.booted.exists():
            command: list[str | Path] = [self.systemctl, "cat", unit]
        else:
            command = [self.analyze, "cat-config", f"systemd/system/{unit}"]
        try:
            return run(command)
        except ProgramFailed:
            return ""


def launch_of_unit(unit: str, text: str) -> Launch | None:
    """Read `systemctl cat` (systemd.service(5), systemd.exec(5)); None where it starts no sshd."""
    command, source = "", ""
    environment: dict[str, str] = {}
    files: list[str] = []
    for file, key, value in _unit_settings(text):
        if key == "ExecStart":
            command, source = value, file
        elif key == "Environment":
            environment = {**environment, **_assignments(_split(value))} if value else {}
        elif key == "EnvironmentFile":
            files = [*files, value] if value else []
    for pattern in files:
        for name in sorted(glob.glob(pattern.removeprefix("-"))):  # noqa: PTH207  # absolute
            with contextlib.suppress(
                OSError
            ):  # systemd refuses to start, or "-" said it may be missing
                environment.update(_assignments(_env_file(decode(Path(name).read_bytes()))))
    argv = _expand(_split(command.lstrip("@-:+!|")), environment)
    if not any(Path(word).name == "sshd" for word in argv):
        return None
    while Path(argv[0]).name != "sshd":
        del argv[0]
    while argv and Path(argv[0]).name == "sshd":  # twice where argv[0] is given with an @
        del argv[0]
    also = "".join(f", {pattern.removeprefix('-')}" for pattern in files)
    return launch_of(f"{unit} ({source}{also})", argv, None)


def _unit_settings(text: str) -> Iterator[tuple[str, str, str]]:
    """Give (file, key, value) of the [Service] section, continued lines joined."""
    file, section, held = "", "", ""
    for line in text.splitlines():
        if re.fullmatch(r"# /\S+\.(service|conf)", line):
            file, held = line[2:], ""
        if line.lstrip().startswith(("#", ";")):
            continue
        held += line
        if held.endswith("\\"):
            held = held[:-1] + " "
            continue
        whole, held = held.strip(), ""
        if whole.startswith("["):
            section = whole
        elif section == "[Service]" and "=" in whole:
            key, _, value = whole.partition("=")
            yield file, key.strip(), value.strip()


def _split(text: str) -> list[str]:
    """Split by systemd's rules of quoting, which are near enough to the shell's; %% becomes %."""
    try:
        found = shlex.split(text)
    except ValueError:
        found = text.split()
    return [word.replace("%%", "%") for word in found]


def _assignments(found: Sequence[str]) -> dict[str, str]:
    return {
        name: value for name, equals, value in (word.partition("=") for word in found) if equals
    }


def _env_file(text: str) -> list[str]:
    """Read an EnvironmentFile as a list of NAME=value."""
    joined = text.replace("\\\n", " ")
    found = []
    for line in joined.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith(("#", ";")):
            value = value.strip()
            with contextlib.suppress(ValueError):
                value = " ".join(shlex.split(value)) if value[:1] in ("'", '"') else value
            found.append(f"{name.strip()}={value}")
    return found


def _expand(found: Sequence[str], environment: dict[str, str]) -> list[str]:
    """Put in variables: $NAME as a word becomes words, ${NAME} part of a word, $$ a dollar."""
    argv: list[str] = []
    for word in found:
        if re.fullmatch(r"\$[A-Za-z_][A-Za-z0-9_]*", word):
            value = environment.get(word[1:], "")
            try:
                argv += shlex.split(value)
            except ValueError:
                argv += value.split()
        else:
            argv.append(
                re.sub(
                    r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}",
                    lambda m: environment.get(m[1], "") if m[1] else "$",
                    word,
                )
            )
    return argv


def launch_of(source: str, argv: Sequence[str], pid: int | None) -> Launch:
    """Read sshd's command line by getopt's rules."""
    options: list[str] = []
    config: str | None = None
    rest = iter(argv)
    for word in rest:
        if not word.startswith("-") or word == "--":
            break
        for at, letter in enumerate(word[1:], 2):
            if letter in _WITH_VALUE:
                value = word[at:] or next(rest, "")
                if letter == "o":
                    options.append(value)
                elif letter == "f":
                    config = value
                break
    return Launch(source, tuple(options), config, pid)
