"""sshd's configuration files, read the way sshd reads them.

What sshd makes of its configuration is asked of sshd itself. Its files are read only for what it
does not tell: where a setting stands, what a Match block overrides, and how the whole would read if
one file were different.
Follows OpenSSH's servconf.c (lines, Include, Match) and misc.c (strdelim, argv_split).
"""

import errno
import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eic_agent.sshd.changes import content_of

_WHITESPACE = " \t\r\n"
_PLAIN_WORD = re.compile(r"""[^\s#"'\\][^\s"'\\]*""")
_MAX_INCLUDE_DEPTH = 16  # SERVCONF_MAX_DEPTH


def decode(content: bytes) -> str:
    """Text of a configuration file or of sshd's output; any bytes survive decode and encode."""
    return content.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """Undo decode()."""
    return text.encode("utf-8", "surrogateescape")


def words(text: str, *, comments: bool = False) -> tuple[str, ...]:
    """Split as argv_split does; with comments, a word that begins with # ends the text.

    Raises ValueError where a quote is not closed.
    """
    found: list[str] = []
    at = 0
    while at < len(text):
        if text[at] in " \t":
            at += 1
            continue
        if comments and text[at] == "#":
            break
        word, at = _word(text, at)
        found.append(word)
    return tuple(found)


def _word(text: str, at: int) -> tuple[str, int]:
    word, quote = "", ""
    while at < len(text):
        char, following = text[at], text[at + 1 : at + 2]
        if (
            char == "\\"
            and following
            and (following in "'\"\\" or (not quote and following == " "))
        ):
            word += following
            at += 1
        elif not quote and char in " \t":
            break
        elif not quote and char in "'\"":
            quote = char
        elif char == quote:
            quote = ""
        else:
            word += char
        at += 1
    if quote:
        raise ValueError(f"no closing {quote} in: {text}")
    return word, at


def quote(word: str) -> str:
    """Write a word so that words() reads the same word back."""
    if _PLAIN_WORD.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse_line(line: str) -> tuple[str, str] | None:
    """Return keyword, in lower case, and the text behind it; None for a line that says nothing."""
    text = line.rstrip(_WHITESPACE + "\f").lstrip(_WHITESPACE)
    if text.startswith("#"):
        return None
    delimiter = re.search(r'[ \t\r\n"=]', text)
    if delimiter is None:
        return (text.lower(), "") if text else None
    keyword, rest = text[: delimiter.start()], text[delimiter.end() :]
    if delimiter.group() == '"':
        inner, closing, rest = rest.partition('"')
        if not closing:
            return None
        return ((keyword + inner).lower(), rest.lstrip(_WHITESPACE)) if keyword + inner else None
    rest = rest.lstrip(_WHITESPACE)
    if delimiter.group() != "=" and rest.startswith("="):
        rest = rest[1:].lstrip(_WHITESPACE)
    return (keyword.lower(), rest) if keyword else None


@dataclass(frozen=True, slots=True)
class Line:
    """One line that sets something; `match` has the conditions of the Match block around it."""

    file: Path
    number: int
    keyword: str
    value: str
    match: str | None

    @property
    def where(self) -> str:
        """File and line number as compilers write them."""
        return f"{self.file}:{self.number}"


@dataclass(frozen=True, slots=True)
class Tree:
    """A main configuration file with all that it includes.

    `changes` says what files would hold, None for a file that would not be there; on disk nothing
    is changed. Relative Includes start at `base`, the directory compiled into sshd. Methods raise
    OSError where a file cannot be read.
    """

    main: Path
    base: Path
    changes: Mapping[Path, bytes | None] = field(default_factory=dict)

    def lines(self) -> Iterator[Line]:
        """Every line that sets something, in the order in which sshd reads them."""
        return self._lines(self.main, None, 0)

    def includes(self, line: Line) -> tuple[Path, ...]:
        """Return the files that an Include line names, in sshd's order."""
        return _included(line.value, self.base, self.changes)

    def copy(self, into: Path) -> Path:
        """Write what sshd needs in order to read this tree; return the main file to give it.

        Only files that differ from those on disk are written, below `into` by their whole paths and
        with every line where it was: without `into`, sshd's messages name the true file and line.
        """
        return self._copy(self.main, into, 0)

    def read(self, path: Path) -> bytes | None:
        """Return what the file would hold, None where it would not exist."""
        for changed, content in self.changes.items():
            if place(changed) == place(path):
                return content
        content = content_of(path)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return content

    def _lines(self, path: Path, match: str | None, depth: int) -> Iterator[Line]:
        for number, text in enumerate(decode(self.read(path) or b"").split("\n"), 1):
            parsed = parse_line(text)
            if parsed is None:
                continue
            keyword, value = parsed
            if keyword == "match":
                match = value
                continue
            yield Line(path, number, keyword, value, match)
            if keyword == "include" and depth < _MAX_INCLUDE_DEPTH:
                for included in _included(value, self.base, self.changes):
                    yield from self._lines(included, match, depth + 1)

    def _copy(self, path: Path, into: Path, depth: int) -> Path:
        content = self.read(path) or b""
        differs = any(place(changed) == place(path) for changed in self.changes)
        lines = decode(content).split("\n")
        for index, text in enumerate(lines):
            parsed = parse_line(text)
            if parsed is None or parsed[0] != "include" or depth >= _MAX_INCLUDE_DEPTH:
                continue
            on_disk = _included(parsed[1], self.base, {})
            wanted = tuple(
                self._copy(file, into, depth + 1)
                for file in _included(parsed[1], self.base, self.changes)
            )
            if wanted != on_disk:
                differs = True
                names = " ".join(quote(glob.escape(str(file))) for file in wanted)
                lines[index] = f"Include {names}" if names else "# Include of nothing"
        if not differs:
            return path
        copy = into / path.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(encode("\n".join(lines)))
        return copy


def _included(value: str, base: Path, changes: Mapping[Path, bytes | None]) -> tuple[Path, ...]:
    try:
        patterns = words(value, comments=True)
    except ValueError:  # sshd refuses the file, and says so itself
        return ()
    return tuple(path for pattern in patterns for path in _expand(pattern, base, changes))


def _expand(pattern: str, base: Path, changes: Mapping[Path, bytes | None]) -> list[Path]:
    if not pattern.startswith(("/", "~")):
        pattern = str(base / pattern)
    found = {Path(name) for name in glob.glob(pattern)}  # noqa: PTH207  # patterns are absolute
    folder, name = os.path.split(pattern)
    folders = glob.glob(folder) if glob.has_magic(folder) else [folder]  # noqa: PTH207
    for changed, content in changes.items():
        if fnmatch.fnmatchcase(changed.name, name):
            same = {
                Path(f, changed.name)
                for f in folders
                if place(Path(f, name)).parent == place(changed).parent
            }
            found = found - same if content is None else found | same
    return sorted(found, key=os.fsencode)


def place(path: Path) -> Path:
    """Follow links in the path's directory, so that two spellings of one file compare equal."""
    return path.parent.resolve() / path.name
