"""Running the programs that packages are looked at with."""

import os
import subprocess
from pathlib import Path


def output(*command: str | Path, **environment: str) -> str:
    """What a program wrote, which must end with 0 and write no complaint."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **environment},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout
