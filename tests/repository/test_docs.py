"""What the documents say of the code is so."""

import re
from pathlib import Path

from eic_agent.errors import Reason

ROOT = Path(__file__).parents[2]
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
