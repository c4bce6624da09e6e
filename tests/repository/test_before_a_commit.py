"""`.pre-commit-config.yaml`, as pre-commit itself runs it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / ".pre-commit-config.yaml"


def pre_commit(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pre_commit", "run", "--all-files"],
        cwd=tree,
        env=os.environ | {"PRE_COMMIT_HOME": str(tree / ".home")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with our hooks, whose `make check` says whether it is well."""
    shutil.copy(CONFIG, tmp_path)
    (tmp_path / "Makefile").write_text("check:\n\t@echo checked; test ! -e broken\n")
    (tmp_path / ".gitignore").write_text(".home\n")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "--all"], cwd=tmp_path, check=True)
    return tmp_path


def test_it_runs_what_make_check_runs_and_nothing_else(tree: Path) -> None:
    repositories = yaml.safe_load(CONFIG.read_text())["repos"]
    entries = [hook["entry"] for one in repositories for hook in one["hooks"]]
    assert ([one["repo"] for one in repositories], entries) == (["local"], ["make check"])
    done = pre_commit(tree)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_make_check_refuses_is_not_committed(tree: Path) -> None:
    (tree / "broken").touch()
    done = pre_commit(tree)
    assert done.returncode == 1
    assert "checked" in done.stdout
