"""`make lock-check`: what is locked, held to the advisories that are known."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from advisories import ADVISORIES, PYPROJECT, read_advisories
from wheels import LOCK, ROOT, PackagingError


def lock_check(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "packaging/advisories.py", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_lock_and_the_floors_lag_behind_no_advisory() -> None:
    done = lock_check()
    assert (done.returncode, done.stderr) == (0, "")


def test_a_lock_that_lags_fails_and_is_told_the_advisory(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    text, changed = re.subn(
        r"^urllib3==\S+", "urllib3==2.7.0", LOCK.read_text(), flags=re.MULTILINE
    )
    assert changed == 1
    lock.write_text(text)
    done = lock_check("--lock", lock)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    for line, advisory in zip(lines, ("CVE-2026-97687", "CVE-2026-97689"), strict=True):
        assert line.startswith(f"urllib3 is locked at 2.7.0, and {advisory} ")
        assert line.endswith("is fixed in 2.8.0; run: make lock")


def test_a_version_is_compared_as_a_version_and_not_as_a_text(tmp_path: Path) -> None:
    listed = tmp_path / "advisories.toml"
    entry = '[[advisory]]\npackage = "IDNA"\nfixed-in = "{}"\nid = "CVE-1"\nabout = "an example"\n'
    listed.write_text(entry.format("3.9"))
    assert lock_check("--advisories", listed).returncode == 0
    listed.write_text(entry.format("999.0"))
    assert "idna is locked at" in lock_check("--advisories", listed).stderr


def test_a_floor_that_admits_what_an_advisory_names_fails(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    text, changed = re.subn(r'"urllib3>=[^"]+"', '"urllib3>=2.6"', PYPROJECT.read_text())
    assert changed == 1
    project.write_text(text)
    done = lock_check("--pyproject", project)
    assert done.returncode == 1
    assert "urllib3>=2.6 admits versions below 2.8.0, which fixes CVE-2026-97689" in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[advisory]]\npackage = "idna"\n', "an advisory has the texts"),
        ('[[advisories]]\npackage = "idna"\n', r"knows \[\[advisory\]\] alone"),
        (
            '[[advisory]]\npackage = "idna"\nfixed-in = "soon"\nid = "CVE-1"\nabout = "x"\n',
            "CVE-1: fixed-in: Invalid version",
        ),
    ],
)
def test_a_list_that_cannot_be_read_is_an_error(text: str, says: str, tmp_path: Path) -> None:
    listed = tmp_path / "advisories.toml"
    listed.write_text(text)
    with pytest.raises(PackagingError, match=says):
        read_advisories(listed)


def test_every_advisory_is_about_something_that_is_bundled() -> None:
    """A name that is spelled wrongly would be compared with nothing."""
    locked = set(re.findall(r"^([a-z0-9-]+)==", LOCK.read_text(), flags=re.MULTILINE))
    assert {advisory.package for advisory in read_advisories(ADVISORIES)} <= locked
