"""Reads the journal by journalctl, entry after entry, in the form made for export.

That form (systemd.io/JOURNAL_EXPORT_FORMATS) costs journalctl half of what JSON costs it.
"""

import io
import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from eic_agent.errors import EicAgentError
from eic_agent.journal.entries import escape
from eic_agent.reports import evidence

_CHUNK = 1 << 18
_MOST_VALUE = 1 << 16  # bytes of one field; no entry that is believed has a longer one
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


NO_RIGHT = (
    "the system's journal can be read by root and by members of the groups adm and "
    "systemd-journal; run it with sudo"
)


class NoJournal(EicAgentError):
    """The journal cannot be read; the text holds what journalctl said."""


@contextmanager
def exported(*arguments: str, directory: Path | None = None) -> Iterator[IO[bytes]]:
    """Run journalctl while the context lasts, and give what it exports.

    `directory` holds journal files of whatever machine; without, it is this machine's journal.
    Raises NoJournal where journalctl fails, at the latest when the context ends.
    """
    command = ["journalctl", "--quiet", "--no-pager", "--output=export"]
    command.append(f"--output-fields={','.join(evidence.FIELDS)}")
    if directory is not None:
        command.append(f"--directory={directory.absolute()}")
    environment = {k: v for k, v in os.environ.items() if k == "TZ"}
    environment |= {"PATH": _PATH, "LC_ALL": "C.UTF-8"}
    try:
        process = subprocess.Popen(  # noqa: S603  # arguments never through a shell
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
    except OSError as error:
        raise NoJournal(f"journalctl cannot be run: {error.strerror}") from None
    assert process.stdout is not None  # noqa: S101  # for mypy: they are pipes
    assert process.stderr is not None  # noqa: S101
    with process:
        finished = False
        try:
            yield process.stdout
            finished = not process.stdout.read(1)  # whoever reads to the end wants all of it
        finally:
            if not finished:
                process.kill()
        said = process.stderr.read(4096).decode("utf-8", "replace").strip()
        if finished and process.wait() != 0:
            raise NoJournal(escape(said) or f"journalctl ended with {process.returncode}")


def entries(stream: IO[bytes]) -> Iterator[dict[bytes, bytes]]:
    """Give one entry after the other; a field that an entry has twice is left out of it."""
    assert isinstance(stream, io.BufferedReader)  # noqa: S101  # for mypy: a pipe is one
    pending = b""
    while chunk := stream.read1(_CHUNK):
        pending += chunk
        whole = False
        while not whole:
            blocks = pending.split(b"\n\n")
            pending = blocks.pop()
            whole = True
            for number, block in enumerate(blocks):
                entry = _plain(block)
                if entry is None:
                    rest = _Rest(b"\n\n".join([*blocks[number:], pending]), stream)
                    yield _with_binary(rest)
                    pending, whole = rest.bytes, False
                    break
                yield entry


def _plain(block: bytes) -> dict[bytes, bytes] | None:
    """Read an entry of lines NAME=value; None where one of its fields is in the other form."""
    lines = block.split(b"\n")
    try:
        entry = dict([line.split(b"=", 1) for line in lines])
    except ValueError:
        return None
    if len(entry) != len(lines):
        counted = Counter(line.partition(b"=")[0] for line in lines)
        return {name: value for name, value in entry.items() if counted[name] == 1}
    return entry


class _Rest:
    """Bytes that were read already, and after them those of a stream."""

    def __init__(self, data: bytes, stream: IO[bytes]) -> None:
        self.bytes, self._stream = data, stream

    def line(self) -> bytes:
        """Take a line, without its end."""
        if b"\n" not in self.bytes:
            self.bytes += self._stream.readline()
        line, _, self.bytes = self.bytes.partition(b"\n")
        return line

    def take(self, length: int) -> bytes:
        """Take so many bytes, or what is left of them."""
        if len(self.bytes) < length:
            self.bytes += self._stream.read(length - len(self.bytes))
        taken, self.bytes = self.bytes[:length], self.bytes[length:]
        return taken


def _with_binary(rest: _Rest) -> dict[bytes, bytes]:
    """Read an entry with fields NAME, 64-bit little-endian length, value, newline."""
    entry: dict[bytes, bytes] = {}
    counted: Counter[bytes] = Counter()
    while line := rest.line():
        name, equals, value = line.partition(b"=")
        if not equals:
            left = int.from_bytes(rest.take(8), "little")
            value = rest.take(min(left, _MOST_VALUE))
            left -= len(value)
            while left > 0 and (skipped := rest.take(min(left, _MOST_VALUE))):
                left -= len(skipped)
            rest.take(1)
        counted[name] += 1
        entry[name] = value
    return {name: value for name, value in entry.items() if counted[name] == 1}


def first(arguments: Sequence[str], directory: Path | None = None) -> dict[bytes, bytes] | None:
    """Give the first entry, or None where there is none. Raises NoJournal."""
    with exported(*arguments, directory=directory) as stream:
        return next(entries(stream), None)


def values(name: str, directory: Path) -> list[str]:
    """Give every value that a field has in any entry. Raises NoJournal."""
    try:
        done = subprocess.run(  # noqa: S603
            ["journalctl", f"--directory={directory.absolute()}", f"--field={name}"],  # noqa: S607
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
            check=False,
        )
    except OSError as error:
        raise NoJournal(f"journalctl cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise NoJournal(escape(said) or f"journalctl ended with {done.returncode}")
    return done.stdout.decode("utf-8", "replace").split()


def may_read() -> bool:
    """Say whether this user sees the system's own entries; journalctl leaves them out silently."""
    journals = [Path("/var/log/journal"), Path("/run/log/journal")]
    files = (file for journal in journals for file in journal.glob("*/system*.journal"))
    return os.geteuid() == 0 or any(os.access(file, os.R_OK) for file in files)
