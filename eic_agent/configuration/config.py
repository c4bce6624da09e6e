"""The configuration: TOML files, checked and merged into one frozen `Config`.

Defaults stand in the dataclasses and nowhere else; docs/configuration.md describes every key.
"""

import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from eic_agent.configuration import schema
from eic_agent.errors import ConfigError
from eic_agent.journal.entries import escape
from eic_agent.lookup.anchors import anchor_file
from eic_agent.lookup.policy import KeyRules, Policy, UserRules
from eic_agent.lookup.trust import TrustRules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_PATH = Path("/etc/eic-agent/config.toml")

# A mistake in these costs nobody a login: it is reported, and the default stays.
_TOLERANT_TABLES = ("agent", "log")

# What forbids adds up over the files: no later file can make an earlier one's words void.
_ADD_UP = frozenset({"policy.deny_users", "policy.deny_groups", "policy.rules"})


@dataclass(frozen=True, slots=True)
class ImdsConfig:
    """Where the metadata service is; seconds that a request, a lookup, one that starts us take."""

    endpoint: str = "auto"
    timeout_s: float = 1.0
    deadline_s: float = 4.0
    start_s: float = 20.0


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    """Where the hardware's identity is read, and regions of AWS that we do not know yet."""

    sysfs_root: Path = Path("/sys")
    regions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The resident agent: seconds of idleness before it leaves (0: never), and whom it answers."""

    idle_exit_s: float = 0.0
    clients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogConfig:
    """The lowest level that is written, and whether a grant needs its entry."""

    level: str = "info"
    required: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """All that can be configured."""

    imds: ImdsConfig = ImdsConfig()
    identity: IdentityConfig = IdentityConfig()
    trust: TrustRules = field(default_factory=TrustRules)
    policy: Policy = field(default_factory=Policy)
    agent: AgentConfig = AgentConfig()
    log: LogConfig = LogConfig()


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, the files it came from, and what is wrong without being an error.

    `origins` has the files of each value that is not a default, by its name as in "keys.options";
    those of "policy.rules" are one for each rule. `notes` are for whoever checks the files.
    """

    config: Config
    warnings: tuple[str, ...]
    files: tuple[Path, ...]
    origins: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Report:
    """What is found wrong while files are read; a line names its file."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def error(self, file: Path, problem: str) -> None:
        self.errors.append(escape(f"{file}: {problem}"))

    def warn(self, file: Path, problem: str) -> None:
        self.warnings.append(escape(f"{file}: {problem}"))

    def note(self, file: Path, remark: str) -> None:
        self.notes.append(escape(f"{file}: {remark}"))


class _Values:
    """What the files read so far set, and which of them set what."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Any]] = {table: {} for table in schema.TABLES}
        self.origins: dict[str, tuple[Path, ...]] = {}

    def set(self, table: str, key: str, value: Any, file: Path, report: _Report) -> None:
        name = f"{table}.{key}"
        values = self.tables[table]
        before = values.get(key)
        files = (file,) * (len(value) if name == "policy.rules" else 1)
        if before and name in _ADD_UP:
            if not value:
                report.note(file, f"{name} is empty, which takes away nothing of earlier files")
            value = (*before, *(item for item in value if key == "rules" or item not in before))
            files = self.origins[name] + files
        elif before and isinstance(value, tuple) and value != before:
            earlier = self.origins[name][0]
            report.note(file, f"{name} replaces the list that {earlier} has")
        values[key] = value
        self.origins[name] = files


def load(path: Path, *, must_exist: bool = False) -> Loaded:
    """Read a file, then every `*.toml` in `config.d` beside it in the order of their names.

    What a later file sets replaces what an earlier one set, key by key; but deny lists add up, and
    rules follow each other in the order of the files. A file that is not there leaves the defaults,
    unless it `must_exist`. Raises ConfigError listing every error, one a line.
    """
    report = _Report()
    values = _Values()
    files: list[Path] = []
    drop_ins = path.parent / "config.d"
    for file in (path, *_drop_ins(drop_ins, report)):
        document = _read(file, report, optional=file is path and not must_exist)
        if document is not None:
            files.append(file)
            _merge(file, document, values, report)
    anchors = anchor_file(values.tables["trust"].get("anchors", TrustRules().anchors))
    for item in (path.parent, drop_ins, *files, *([] if anchors is None else _on_the_way(anchors))):
        _warn_if_insecure(item, report)
    if report.errors:
        raise ConfigError("\n".join(report.errors + report.warnings))
    return Loaded(
        _build(values.tables),
        tuple(report.warnings),
        tuple(files),
        values.origins,
        tuple(report.notes),
    )


def _drop_ins(directory: Path, report: _Report) -> list[Path]:
    """Files of the directory, but hidden ones, which editors and package managers leave behind."""
    try:
        files = sorted(file for file in directory.iterdir() if not file.name.startswith("."))
    except OSError as error:
        if not _is_absent(directory, error):
            report.error(directory, f"cannot be read: {error.strerror}")
        return []
    for file in files:
        if file.suffix != ".toml":
            report.note(file, "is not read, since its name does not end in .toml")
    return [file for file in files if file.suffix == ".toml"]


def _is_absent(path: Path, error: OSError) -> bool:
    """Whether nobody put anything there: a choice, where a link to nowhere is a mistake."""
    if not isinstance(error, FileNotFoundError):
        return False
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    return there != path and there.exists()


def _read(file: Path, report: _Report, *, optional: bool) -> dict[str, Any] | None:
    try:
        mode = file.stat().st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):  # whoever reads one may wait for ever
            report.error(file, "cannot be read: it is a pipe or a socket, and no file")
            return None
        return tomllib.loads(file.read_bytes().decode("utf-8"))
    except OSError as error:
        if not (optional and _is_absent(file, error)):
            report.error(file, f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        report.error(file, f"line {line} is not UTF-8, as TOML must be")
    except RecursionError:
        report.error(file, "is nested too deeply")
    except ValueError as error:  # TOMLDecodeError, which names line and column, or a huge number
        report.error(file, f"is not TOML: {error}")
    return None


def _on_the_way(file: Path) -> Iterator[Path]:
    """Give a file and every directory in whose place another could be put, links followed."""
    real = Path(os.path.realpath(file))
    yield from dict.fromkeys((file, *file.parents, *real.parents))


def _warn_if_insecure(path: Path, report: _Report) -> None:
    """Warn where somebody besides root and ourselves can change what the configuration says."""
    try:
        status = path.stat()
    except OSError:
        return  # whatever stops us is reported where the path is read
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        return  # such as /dev/null
    if status.st_uid not in (0, os.geteuid()):
        report.warn(path, f"belongs to user id {status.st_uid}, who can let anybody in; chown root")
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(status.st_mode)
        report.warn(path, f"has mode {mode:o}, so others can let anybody in; chmod go-w")


def _merge(file: Path, document: dict[str, Any], values: _Values, report: _Report) -> None:
    for table, content in document.items():
        complain = report.warn if table in _TOLERANT_TABLES else report.error
        if table not in schema.TABLES:
            complain(file, _misplaced(table) or schema.unknown(f"[{table}]", _HEADINGS))
        elif not isinstance(content, dict):
            complain(file, f"{table} is {schema.shown(content)}; accepted is a table [{table}]")
        else:
            read, problems = schema.read_table(content, schema.TABLES[table])
            for key, value in read.items():
                values.set(table, key, value, file, report)
            for problem in problems:
                complain(file, f"{table}.{problem}")


_HEADINGS = tuple(f"[{table}]" for table in schema.TABLES)


def _misplaced(name: str) -> str | None:
    """Say to which table a key belongs that stands above all tables."""
    for table, keys in schema.TABLES.items():
        if name in keys:
            return f"{name} stands outside its table; accepted is below [{table}]"
    return None


def _build(values: dict[str, dict[str, Any]]) -> Config:
    policy = dict(values["policy"])
    rules = policy.pop("rules", ())
    return Config(
        imds=ImdsConfig(**values["imds"]),
        identity=IdentityConfig(**values["identity"]),
        trust=TrustRules(**values["trust"]),
        policy=Policy(KeyRules(**values["keys"]), UserRules(**policy), rules),
        agent=AgentConfig(**values["agent"]),
        log=LogConfig(**values["log"]),
    )


def show(config: Config, origins: Mapping[str, tuple[Path, ...]] | None = None) -> str:
    """Write a configuration as TOML that `load` reads back to the same.

    With `origins`, a comment behind each value names the files that it is from.
    """
    return "\n".join(_lines(config, origins)) + "\n"


def _lines(config: Config, origins: Mapping[str, tuple[Path, ...]] | None) -> Iterator[str]:
    def table(name: str, values: Any) -> Iterator[str]:
        yield f"[{name}]"
        for key in fields(values):
            line = f"{key.name} = {schema.toml(getattr(values, key.name))}"
            yield line if origins is None else line + _from(*origins.get(f"{name}.{key.name}", ()))

    yield from table("imds", config.imds)
    yield from table("identity", config.identity)
    yield from table("trust", config.trust)
    yield from table("keys", config.policy.keys)
    yield from table("policy", config.policy.users)
    for number, rule in enumerate(config.policy.callers):
        yield "[[policy.rules]]" + (_from(origins["policy.rules"][number]) if origins else "")
        for key in fields(rule):
            yield f"{key.name} = {schema.toml(getattr(rule, key.name))}"
    yield from table("agent", config.agent)
    yield from table("log", config.log)


def _from(*files: Path) -> str:
    return f"  # {', '.join(escape(str(file)) for file in files) or 'the default'}"
