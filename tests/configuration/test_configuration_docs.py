"""What the documentation and the shipped file say about the configuration is so."""

import dataclasses
import re
from pathlib import Path

import pytest

from eic_agent.configuration import schema
from eic_agent.configuration.config import Config, load
from eic_agent.errors import ConfigError

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
SHIPPED = ROOT / "packaging" / "skeleton" / "etc" / "eic-agent" / "config.toml"


def loaded(directory: Path, text: str) -> Config:
    path = directory / "config.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    result = load(path, must_exist=True)
    assert result.warnings == ()
    return result.config


def keys(text: str) -> list[str]:
    return re.findall(r"^(\[[a-z]+\]|[a-z_]+(?= = ))", text, re.MULTILINE)


def test_the_defaults_that_are_listed_are_those_of_the_code(tmp_path: Path) -> None:
    assert loaded(tmp_path, BLOCKS[0]) == Config()


def test_every_key_is_listed_with_its_default() -> None:
    assert keys(BLOCKS[0]) == [
        name for table, names in schema.TABLES.items() for name in (f"[{table}]", *names)
    ]


def test_every_key_is_described_in_the_section_of_its_table() -> None:
    sections = re.split(r"^### `\[(\w+)\]`.*$", DOCUMENT, flags=re.MULTILINE)[1:]
    described = {
        table: re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
        for table, text in zip(sections[::2], sections[1::2], strict=True)
    }
    assert described == {table: list(names) for table, names in schema.TABLES.items()}


@pytest.mark.parametrize("block", BLOCKS[1:])
def test_every_example_loads_and_changes_something(tmp_path: Path, block: str) -> None:
    assert loaded(tmp_path, block) != Config()


def test_errors_read_as_the_documentation_shows_them(tmp_path: Path) -> None:
    shown = re.findall(r"^/etc/eic-agent/config.d/50-fleet.toml: (.*)$", DOCUMENT, re.MULTILINE)
    path = tmp_path / "config.toml"
    path.write_text('[keys]\nmax_lifetime = 60\noptions = ["no-ptty"]\n')
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).splitlines() == [f"{path}: {line}" for line in shown]


def test_the_shipped_file_shows_every_default_as_a_comment(tmp_path: Path) -> None:
    shipped = SHIPPED.read_text(encoding="utf-8")
    assert loaded(tmp_path, shipped) == Config()
    shown = re.sub(r"^# (?=\[|[a-z_]+ = | {4})", "", shipped, flags=re.MULTILINE)
    config = loaded(tmp_path, shown)
    assert (
        dataclasses.replace(config, policy=dataclasses.replace(config.policy, callers=()))
        == Config()
    )
    assert [key for key in keys(shown) if key not in ("users", "callers")] == [
        name
        for table, names in schema.TABLES.items()
        for name in (f"[{table}]", *names)
        if name != "rules"
    ]
