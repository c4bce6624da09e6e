"""The configuration: TOML files, checked and merged into one frozen `Config`.

Defaults stand in the dataclasses and nowhere else; docs/configuration.md describes every key.
"""

import os
import stat
import sys
from collections.abc import Iterator
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


@dataclass(frozen=True, slots=True)
class ImdsConfig:
    """Where the metadata service is, and how many seconds a request and a lookup may take."""

    endpoint: str = "auto"
    timeout_s: float = 1.0
    deadline_s: float = 4.0


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    """Where the hardware's identity is read, and regions of AWS that we do not know yet."""

    sysfs_root: Path = Path("/sys")
    regions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The resident agent: seconds of idleness before it leaves (0: never), and whom it answers."""

    idle_exit_s: float = 600.0
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
    """A configuration, the files it came from, and what is wrong without being an error."""

    config: Config
    warnings: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Report:
    """What is found wrong while files are read; a line names its file."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def error(self, file: Path, problem: str) -> None:
        self.errors.append(escape(f"{file}: {problem}"))

    def warn(self, file: Path, problem: str) -> None:
        self.warnings.append(escape(f"{file}: {problem}"))


def load(path: Path, *, must_exist: bool = False) -> Loaded:
    """Read a file, then every `*.toml` in `config.d` beside it in the order of their names.

    What a later file sets replaces what an earlier one set, key by key. A file that is not there
    leaves the defaults, unless it `must_exist`. Raises ConfigError listing every error, one a line.
    """
    report = _Report()
    values: dict[str, dict[str, Any]] = {table: {} for table in schema.TABLES}
    files: list[Path] = []
    # A link to nowhere is a mistake, where no file at all is a choice.
    optional = not must_exist and not os.path.islink(path)  # noqa: PTH114 - Path's raises
    drop_ins = path.parent / "config.d"
    for file in (path, *_drop_ins(drop_ins, report)):
        document = _read(file, report, optional=optional and file is path)
        if document is not None:
            files.append(file)
            _merge(file, document, values, report)
    anchors = anchor_file(values["trust"].get("anchors", TrustRules().anchors))
    for item in (path.parent, drop_ins, *files, *([] if anchors is None else _on_the_way(anchors))):
        _warn_if_insecure(item, report)
    if report.errors:
        raise ConfigError("\n".join(report.errors + report.warnings))
    return Loaded(_build(values), tuple(report.warnings), tuple(files))


def _drop_ins(directory: Path, report: _Report) -> list[Path]:
    """Files of the directory, but hidden ones, which editors and package managers leave behind."""
    try:
        files = [file for file in directory.iterdir() if file.suffix == ".toml"]
    except FileNotFoundError:
        return []
    except OSError as error:
        report.error(directory, f"cannot be read: {error.strerror}")
        return []
    return sorted(file for file in files if not file.name.startswith("."))


def _read(file: Path, report: _Report, *, optional: bool) -> dict[str, Any] | None:
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8"))
    except OSError as error:
        if not (optional and isinstance(error, FileNotFoundError)):
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


def _merge(
    file: Path, document: dict[str, Any], values: dict[str, dict[str, Any]], report: _Report
) -> None:
    for table, content in document.items():
        complain = report.warn if table in _TOLERANT_TABLES else report.error
        if table not in schema.TABLES:
            complain(file, _misplaced(table) or schema.unknown(f"[{table}]", _HEADINGS))
        elif not isinstance(content, dict):
            complain(file, f"{table} is {schema.shown(content)}; accepted is a table [{table}]")
        else:
            read, problems = schema.read_table(content, schema.TABLES[table])
            values[table].update(read)
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


def show(config: Config) -> str:
    """Write a configuration as TOML that `load` reads back to the same."""
    return "\n".join(_lines(config)) + "\n"


def _lines(config: Config) -> Iterator[str]:
    yield from _table("[imds]", config.imds)
    yield from _table("[identity]", config.identity)
    yield from _table("[trust]", config.trust)
    yield from _table("[keys]", config.policy.keys)
    yield from _table("[policy]", config.policy.users)
    for rule in config.policy.callers:
        yield from _table("[[policy.rules]]", rule)
    yield from _table("[agent]", config.agent)
    yield from _table("[log]", config.log)


def _table(heading: str, values: Any) -> Iterator[str]:
    yield heading
    for key in fields(values):
        yield f"{key.name} = {schema.toml(getattr(values, key.name))}"
