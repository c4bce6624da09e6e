"""The AWS CLI from PyPI, run as a user of the sandbox runs it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from eic_sandbox.programs import SandboxError


def send_ssh_public_key_command(instance_id: str, os_user: str, public_key: Path) -> list[str]:
    """Return the command as AWS's documentation gives it."""
    return [
        "aws",
        "ec2-instance-connect",
        "send-ssh-public-key",
        *("--instance-id", instance_id),
        *("--instance-os-user", os_user),
        *("--ssh-public-key", f"file://{public_key}"),
    ]


def run_aws(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run an `aws` command with the sandbox's exports, and nothing of the user's own settings."""
    aws = Path(sys.executable).with_name("aws")
    if not aws.exists():
        raise SandboxError(f"there is no {aws}; install awscli with pip")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [str(aws), *command[1:]],
        env={
            **inherited,
            **environment,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_PAGER": "",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
