"""What is said of a user's access is what a running sshd does, however the host is broken."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sshd.broken_hosts import WAYS
from tests.support import program, root

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    root()
    for name, package in (("sshd", "openssh-server"), ("ssh", "openssh-client")):
        program(name, package)
    directory = tmp_path_factory.mktemp("hosts")
    unshare = [program("unshare", "util-linux"), "--mount", "--propagation", "private", "--"]
    # Layers cannot lie on what may be layers itself.
    script = 'mount -t tmpfs tmpfs "$1"; exec "$2" -m tests.sshd.broken_hosts "$1"'
    done = subprocess.run(
        [*unshare, "sh", "-euc", script, "sh", str(directory), sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    data: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return data


@pytest.mark.parametrize("way", WAYS)
def test_a_login_is_promised_where_sshd_lets_in_and_nowhere_else(
    found: dict[str, dict[str, Any]], way: str
) -> None:
    said, one = WAYS[way][2], found[way]
    assert one["logs_in"] is (said == ""), one
    assert one["asks"] is one["logs_in"], one
    if said:
        assert said in one["problems"][0]["what"]
        assert one["problems"][0]["remedy"]
