"""What sshd makes of a configuration: sshd itself is asked, and decides."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from eic_agent.errors import EicAgentError
from eic_agent.sshd.files import Tree
from eic_agent.sshd.launch import ProgramFailed, run
from eic_agent.sshd.listeners import listeners
from eic_agent.sshd.survey import COMMAND, UNITS, USER, Survey

_MISSING_FOLDER = re.compile(r"Missing privilege separation directory: (/\S+)")


class NotAccepted(EicAgentError):
    """sshd does not accept a configuration; the text is sshd's own."""


@dataclass(frozen=True, slots=True)
class Effective:
    """What sshd says is in effect for a login that no Match block fits, `Match all` excepted."""

    command: str | None
    user: str | None
    public_keys: bool
    environment: str = "no"  # which variables users may set: no, yes or patterns


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting that sshd shows, by keyword in lower case; lists have a value for each line."""

    lines: Mapping[str, tuple[str, ...]]

    def one(self, keyword: str) -> str | None:
        """Return the value of a setting, None where sshd shows none, or `none`."""
        values = self.lines.get(keyword)
        return _unless_none(values[-1]) if values else None

    def words(self, keyword: str) -> tuple[str, ...]:
        """Return the words of all its lines."""
        return tuple(word for value in self.lines.get(keyword, ()) for word in value.split())


class Sshd:
    """Answers what sshd makes of a configuration."""

    def __init__(self, found: Survey, scratch: Path) -> None:
        self._paths = found.system.paths
        self._options = found.launches[0].options if found.launches else ()
        self._scratch = scratch
        self._key = scratch / "host_key"
        self._made: Path | None = None

    def effective(self, tree: Tree) -> Effective:
        """Ask sshd; raises NotAccepted where it does not accept it, or cannot be asked."""
        settings = self.settings(tree)
        return Effective(
            command=settings.one(COMMAND),
            user=settings.one(USER),
            public_keys=settings.one("pubkeyauthentication") != "no",
            environment=settings.one("permituserenvironment") or "no",
        )

    def settings(self, tree: Tree, connection: str | None = None) -> Settings:
        """Ask sshd for every setting, for a login that sshd's -C describes where one is given.

        Raises NotAccepted.
        """
        copies = Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            shown = self._show(tree.copy(copies), connection)
        except (ProgramFailed, OSError) as error:
            raise NotAccepted(str(error).replace(str(copies), "")) from error
        lines: dict[str, tuple[str, ...]] = {}
        for line in shown.splitlines():
            keyword, _, value = line.partition(" ")
            lines[keyword] = (*lines.get(keyword, ()), value)
        return Settings(lines)

    def _show(self, main: Path, connection: str | None) -> str:
        if not self._key.exists():
            # ECDSA: FIPS mode has it as well.
            run([self._paths.keygen, "-q", "-t", "ecdsa", "-N", "", "-f", self._key])
        argv: list[str | Path] = [self._paths.sshd, "-T", "-f", main, "-h", self._key]
        for option in self._options:
            argv += ["-o", option]
        if connection is not None:
            argv += ["-C", connection]
        try:
            return run(argv)
        except ProgramFailed as error:
            missing = _MISSING_FOLDER.search(str(error))
            if missing is None:
                raise
            self._made = Path(missing[1])
            self._make_folder()
            return run(argv)

    def tidy(self) -> None:
        """Remove the directory that sshd wanted if we made it, unless an sshd uses it by now."""
        if self._made is not None and not self._runs():
            with contextlib.suppress(OSError):
                self._made.rmdir()
            if self._runs():  # it started just now
                self._make_folder()

    def _make_folder(self) -> None:
        if self._made is not None:
            with contextlib.suppress(FileExistsError):
                self._made.mkdir()
                self._made.chmod(0o755)  # whatever the umask

    def _runs(self) -> bool:
        states = self._paths.systemd.states(*UNITS)
        running = any(state.active in ("active", "activating", "reloading") for state in states)
        return running or bool(listeners(self._paths.proc, self._paths.sshd))


@contextlib.contextmanager
def asking(found: Survey) -> Iterator[Sshd]:
    """Give an sshd to ask, with a host key of its own: baked images have none.

    Its files lie where other users can neither fill the file system nor, as in /tmp, look.
    """
    run_directory = found.system.paths.run
    where = run_directory if os.access(run_directory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="eic-agent-", dir=where) as scratch:
        sshd = Sshd(found, Path(scratch))
        try:
            yield sshd
        finally:
            sshd.tidy()


def _unless_none(value: str | None) -> str | None:
    return None if value is None or value.lower() == "none" else value
