"""The user data of docs/packaging.md, read by the cloud-init of each release."""

import re
from pathlib import Path

import pytest

from tests.machine.machine import Machine

DOCUMENT = (Path(__file__).parents[2] / "docs" / "packaging.md").read_text("utf-8")
USER_DATA = re.findall(
    r"^```yaml\n(#cloud-config\n.*?)^```$", DOCUMENT, flags=re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize("user_data", USER_DATA, ids=["apt", "yum"])
def test_cloud_init_takes_the_user_data(plain: Machine, user_data: str) -> None:
    plain.write("/tmp/user-data", user_data)
    said = plain.run("cloud-init", "schema", "--config-file", "/tmp/user-data", check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    plain.run("rm", "/tmp/user-data")
