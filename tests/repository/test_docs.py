"""What the documents say of the code is so."""

import re
from pathlib import Path

import pytest

from eic_agent.errors import Reason
from eic_agent.reports.reasons import REASONS
from tests.repository.test_imports import ALONE, PACKAGE, ROOMS

ROOT = Path(__file__).parents[2]
SKELETON = ROOT / "packaging/skeleton/usr"
TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")))


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = re.findall(r"`(test_\w+)(?:\[(.+?)\])?`", (ROOT / "docs/threat-model.md").read_text())
    assert len(named) > 30
    for function, case in named:
        assert f"def {function}(" in TESTS, function
        assert not case or f'"{case}"' in TESTS, f"{function} has no case {case!r}"


def test_every_reason_is_explained() -> None:
    lookup = (ROOT / "docs/lookup.md").read_text()
    assert {reason.value for reason in Reason} <= set(re.findall(r"`([a-z0-9-]+)`", lookup))


def rows(document: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading of CONTRIBUTING, its head left out."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", document, re.MULTILINE | re.DOTALL)
    assert section, heading
    table = re.findall(r"^\| (.+) \|$", section[1], re.MULTILINE)
    return [row.split(" | ") for row in table[1:]]


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_floor_plan_is_the_one_that_the_imports_keep() -> None:
    """From the roof down: who adds a room or moves one is told here."""
    drawn = [
        set(re.findall(r"`(\w+)/?`", rooms)) for rooms, _ in rows(CONTRIBUTING, "The floor plan")
    ]
    levels = [level | ALONE if level & ALONE else level for level in reversed(ROOMS)]
    assert drawn == levels
    for name in set().union(*drawn):
        is_folder = f"`{name}/`" in CONTRIBUTING
        assert (PACKAGE / name).is_dir() == is_folder, name
        assert is_folder or (PACKAGE / f"{name}.py").is_file(), name


def test_every_folder_of_tests_is_in_the_table() -> None:
    told = {cells[0].strip("`") for cells in rows(CONTRIBUTING, "The tests")}
    found = {f"tests/{path.parent.name}/" for path in (ROOT / "tests").glob("*/__init__.py")}
    assert told == found | {"tests/*.py"}


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link
    # History tells of files that have gone.
    if page.name != "CHANGELOG.md":
        ours = r"`((?:eic_agent|eic_sandbox|benchmarks|packaging|systemd|tests|docs)/[\w./-]*)`"
        for path in re.findall(ours, text):
            assert (ROOT / path).exists(), path


def test_every_decision_is_in_the_list_and_weighs_what_else_there_was() -> None:
    index = (ROOT / "docs/decisions/README.md").read_text()
    pages = {path for path in (ROOT / "docs/decisions").glob("*.md") if path.name != "README.md"}
    assert set(re.findall(r"\]\((\S+\.md)\)", index)) == {page.name for page in pages}
    for page in pages:
        bold = re.findall(r"\*\*(.+?)\.\*\*", page.read_text())
        assert {"Decision", "Why", "Weighed", "What it costs"} <= set(bold), page.name
        assert len(page.read_text().splitlines()) <= 40, page.name


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_explained_alike_wherever_people_look(reason: Reason) -> None:
    explained = REASONS[reason]
    texts = (explained.meaning, explained.cause, explained.remedy)
    page = (ROOT / "docs/troubleshooting.md").read_text()
    assert f"| `{reason.value}` | {' | '.join(texts)} |" in page
    manual = (SKELETON / "share/man/man8/eic-agent.8").read_text()
    assert "\n".join((f".It Li {reason.value}", *texts, ".")) in manual  # and no more
    catalog = (SKELETON / "lib/systemd/catalog/eic-agent.catalog").read_text()
    assert f" {reason.value}: {' '.join(texts)} " in f" {' '.join(catalog.split())} "
