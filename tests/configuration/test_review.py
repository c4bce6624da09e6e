"""What `config check` remarks about files that are valid."""

from pathlib import Path

import pytest

from eic_agent.configuration.config import load
from eic_agent.configuration.review import covered, remarks

ROLE = "arn:aws:iam::123456789012:role/Admin"


def rule(*users: str, callers: str = ROLE) -> str:
    names = ", ".join(f'"{user}"' for user in users)
    return f'[[policy.rules]]\nusers = [{names}]\ncallers = ["{callers}"]\n'


def remarked(directory: Path, **files: str) -> list[str]:
    """Remarks on drop-ins of these names, each from its file's name on."""
    (directory / "config.d").mkdir()
    for name, content in files.items():
        (directory / f"config.d/{name}.toml").write_text(content)
    start = f"{directory}/config.d/"
    return [line.replace(start, "") for line in remarks(load(directory / "config.toml"))]


def test_nothing_is_remarked_about_rules_that_work(tmp_path: Path) -> None:
    files = {"a": rule("root", "adm*"), "b": rule("deploy"), "c": rule("*", callers="*")}
    assert remarked(tmp_path, **files) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"a": rule("*"), "b": rule("root") + rule("x", "y")},
            [
                "b.toml: policy.rules number 1: never asked, since a.toml: policy.rules number 1 ",
                "b.toml: policy.rules number 2: never asked, since a.toml: policy.rules number 1 ",
            ],
        ),
        (
            {"a": rule("root") + rule("bob") + rule("bob", "root")},
            ["a.toml: policy.rules number 3: never asked, since a.toml: policy.rules number 2 "],
        ),
        (
            {"a": '[policy]\ndeny_users = ["r*"]\n', "b": rule("root")},
            ["b.toml: policy.rules number 1: never asked, since policy.deny_users rules"],
        ),
        (
            {"a": '[policy]\nallow_users = ["ec2-user"]\n', "b": rule("root")},
            ["b.toml: policy.rules number 1: never asked, since policy.allow_users names none"],
        ),
        (
            {"a": rule("root", callers="arn:aws:iam::123456789012:role/ops/Admin")},
            ["a.toml: policy.rules number 1: callers has 'arn:aws:iam::123456789012:role/ops/"],
        ),
        (
            {"a": rule("root", callers="alice@example.com")},
            ["a.toml: policy.rules number 1: callers has 'alice@example.com', which no caller can"],
        ),
        (
            {"a": rule("root", callers="arn:aws:sts::*:assumed-role/A/a")},
            ["a.toml: policy.rules number 1: callers has 'arn:aws:sts::*:assumed-role/A/a': "],
        ),
        (
            {"a": rule("CORP\\\\bob"), "b": '[policy]\ndeny_users = ["a b"]\n'},
            [
                "b.toml: policy.deny_users has 'a b'; no key can be pushed for such a user",
                "a.toml: policy.rules number 1: users has 'CORP\\\\bob'; no key can be pushed",
            ],
        ),
        (
            {"a": '[policy]\ndeny_users = ["a"]\n', "b": "[policy]\ndeny_users = []\n"},
            ["b.toml: policy.deny_users is empty, which takes away nothing of earlier files"],
        ),
    ],
)
def test_what_is_said_in_vain_is_remarked(
    tmp_path: Path, files: dict[str, str], expected: list[str]
) -> None:
    found = remarked(tmp_path, **files)
    assert len(found) == len(expected), found
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("pattern", "others", "expected"),
    [
        ("root", ["root"], True),
        ("root", ["r*t"], True),
        ("root", ["r??t"], True),
        ("ad*", ["a*"], True),
        ("a?c", ["a*"], True),
        ("a*", ["ad*"], False),
        ("a*", ["a?"], False),
        ("[ab]", ["*"], True),
        ("[bc]x", ["*c*"], False),
        ("0", ["*"], True),
        ("0", ["root"], False),
        ("root", ["0"], False),
        ("0", ["0"], True),
        ("x", [], False),
    ],
)
def test_a_pattern_is_covered_where_surely_another_takes_all_of_it(
    pattern: str, others: list[str], *, expected: bool
) -> None:
    assert covered(pattern, others) is expected
