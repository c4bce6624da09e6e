"""What the packages install besides programs, read by the programs that it is for."""

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from stage import SKELETON

from eic_agent import arguments
from eic_agent.configuration import config
from eic_agent.journal import entries
from tests.packages.programs import output
from tests.support import program

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Command: TypeAlias = tuple[tuple[str, ...], frozenset[str]]

MANUAL = SKELETON / "usr/share/man"
DEFAULTS = tomllib.loads(config.show(config.Config()))


@pytest.mark.parametrize("page", sorted(MANUAL.glob("man*/*")), ids=lambda page: page.name)
def test_manual_pages_are_typeset_without_a_warning(page: Path) -> None:
    man = [program("man", "man-db"), "--warnings", "--local-file", "--encoding=UTF-8", str(page)]
    name = f"{page.stem}({page.suffix[1:]})".upper()
    assert output(*man, LC_ALL="C.UTF-8", MANWIDTH="80").startswith(name)


def test_the_manual_explains_every_key_of_the_configuration_with_its_default() -> None:
    page = (MANUAL / "man5/eic-agent.toml.5").read_text()
    sections = dict(
        re.findall(r"^\.Ss \[(\w+)\]\n(.*?)(?=^\.S[sh])", page, flags=re.MULTILINE | re.DOTALL)
    )
    assert sections.keys() == DEFAULTS.keys()
    for table, keys in DEFAULTS.items():
        explained = dict(
            re.findall(r"(?:^\.It|,) Cm (\w+) No = (.*?)(?= , |$)", sections[table], re.MULTILINE)
        )
        assert explained.keys() == keys.keys()
        for key, default in keys.items():
            shown = re.sub(r"^Qq (.*)$", r'"\1"', explained[key])
            if shown != "[...]":
                assert tomllib.loads(f"value = {shown}")["value"] == default, key
    assert all(kind in sections["keys"] for kind in DEFAULTS["keys"]["types"])


def test_the_configuration_that_is_installed_says_nothing_and_shows_the_defaults(
    tmp_path: Path,
) -> None:
    text = (SKELETON / "etc/eic-agent/config.toml").read_text()
    assert tomllib.loads(text) == {}
    shown = "\n".join(
        re.findall(r"^# ((?:\[|[a-z_]+ = |         +\").*)$", text, flags=re.MULTILINE)
    )
    uncommented = tomllib.loads(shown)
    rule = uncommented["policy"].pop("rules")
    assert uncommented == DEFAULTS
    path = tmp_path / "config.toml"
    path.write_text(shown)
    assert config.load(path).warnings == ()
    assert rule


def test_the_catalog_explains_what_the_journal_says(tmp_path: Path) -> None:
    journalctl = program("journalctl", "systemd")
    catalog = Path("usr/lib/systemd/catalog/eic-agent.catalog")
    (tmp_path / catalog.parent).mkdir(parents=True)
    shutil.copy(SKELETON / catalog, tmp_path / catalog)
    output(journalctl, f"--root={tmp_path}", "--update-catalog")
    listed = output(journalctl, f"--root={tmp_path}", "--list-catalog")
    assert {line.split()[0] for line in listed.splitlines()} == {
        entries.MESSAGE_ID_GRANTED,
        entries.MESSAGE_ID_REFUSED,
        entries.MESSAGE_ID_PROBLEM,
        entries.MESSAGE_ID_UNDELIVERED,
    }
    fields = set(re.findall(r"@(\w+)@", (SKELETON / catalog).read_text()))
    assert fields <= {"EIC_USER", "EIC_REASON", "EIC_FINGERPRINT", "EIC_CALLER", "EIC_REQUEST"}


def _commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """Every command, or group of them, with the words that can follow it."""
    follow = set()
    inner: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        follow |= {option for option in action.option_strings if option.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            inner = action.choices
    yield words, frozenset(follow | inner.keys())
    for name, one in inner.items():
        yield from _commands(one, (*words, name))


COMMANDS = dict(_commands(arguments.parser()))
COMPLETE = """
_init_completion() { cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
                     words=("${COMP_WORDS[@]}") cword=$COMP_CWORD; }
_allowed_users() { COMPREPLY=(USERS); }
_filedir() { COMPREPLY=(FILES); }
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_eic_agent
echo "${COMPREPLY[@]}"
"""


def _completions(*words: str) -> set[str]:
    script = SKELETON / "usr/share/bash-completion/completions/eic-agent"
    return set(output("bash", "-c", COMPLETE, "bash", script, "eic-agent", *words).split())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_completion_offers_what_the_command_line_takes(words: tuple[str, ...]) -> None:
    takes_a_user = words in (("authorized-keys",), ("explain",))
    begun = "-" if takes_a_user else ""
    assert _completions(*words, begun) == COMMANDS[words]
    assert _completions("--config", "somewhere", *words, begun) == COMMANDS[words]
    if takes_a_user:
        assert _completions(*words, "") == {"USERS"}


def test_completion_offers_files_where_one_is_meant() -> None:
    assert _completions("--config", "") == {"FILES"}
    assert _completions("serve", "--socket", "") == {"FILES"}


def test_the_manual_has_every_command_with_its_options() -> None:
    page = (MANUAL / "man8/eic-agent.8").read_text()
    synopsis = page.partition(".Sh DESCRIPTION")[0]
    explained = page.partition(".Ss Commands")[2].partition(".Sh FILES")[0]
    for words, follow in COMMANDS.items():
        if not words or not all(word.startswith("--") for word in follow):
            continue
        assert re.search(rf"^\.It Cm {' '.join(words)}\b", explained, flags=re.MULTILINE), words
        for option in follow - {"--help"}:
            assert f"Fl {option[1:]}" in synopsis or f"| {option[1:]}" in synopsis, option
