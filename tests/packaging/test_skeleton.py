"""What the packages install besides programs, read by the programs that it is for."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from stage import SKELETON

from eic_agent import config, journal
from tests.packaging.programs import output
from tests.support import program

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
        journal.MESSAGE_ID_GRANTED,
        journal.MESSAGE_ID_REFUSED,
        journal.MESSAGE_ID_PROBLEM,
    }
    fields = set(re.findall(r"@(\w+)@", (SKELETON / catalog).read_text()))
    assert fields <= {"EIC_USER", "EIC_REASON", "EIC_FINGERPRINT", "EIC_CALLER", "EIC_REQUEST"}
