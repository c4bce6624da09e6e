"""mssh and msftp held up between their push and their login, until the keys have expired.

They make a key, push it and start ssh at once, and remove the key when that ends; so the `ssh` and
`sftp` that they find are scripts that wait for a file before they become the real ones.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from eic_sandbox.instance import KEY_LIFETIME_S
from tests import support
from tests.clients.clients import msftp_words, mssh_words
from tests.clients.site import REPOSITORY, TIMEOUT_S, Outcome, Site

_SHIM = """\
#!/bin/sh
touch {waiting}
while [ ! -e {released} ]; do sleep 0.1; done
exec {program} "$@"
"""


class Late:
    """The clients that wait, by name; their keys expire at `keys_end`, by the system's clock."""

    def __init__(
        self, released: Path, processes: dict[str, subprocess.Popen[str]], keys_end: float
    ) -> None:
        self.keys_end = keys_end
        self._released = released
        self._processes = processes

    def release(self, name: str) -> Outcome:
        """Let them all go on, and wait for this one."""
        self._released.touch()
        process = self._processes[name]
        said, _ = process.communicate(timeout=TIMEOUT_S)
        return Outcome(process.returncode == 0, said)


@contextlib.contextmanager
def running_late(site: Site) -> Iterator[Late]:
    """Start mssh and msftp, and go on once both have pushed their keys."""
    shims = site.directory / "shims"
    shims.mkdir()
    released = shims / "released"
    environment = site.environment()
    environment["PATH"] = f"{shims}:{environment['PATH']}"
    with contextlib.ExitStack() as stack:
        processes = {}
        batch = shims / "batch"
        batch.write_text("pwd\n")
        commands = {"mssh": mssh_words(site), "msftp": msftp_words(site, batch)}
        for program, (name, command) in zip(("ssh", "sftp"), commands.items(), strict=True):
            waiting = shims / f"{program}.waiting"
            shim = shims / program
            shim.write_text(
                _SHIM.format(
                    waiting=waiting,
                    released=released,
                    program=support.program(program, "openssh-client"),
                )
            )
            shim.chmod(0o755)
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            processes[name] = stack.enter_context(process)
        # Whatever comes, they end before they are waited for.
        stack.callback(released.touch)
        deadline = time.monotonic() + TIMEOUT_S
        while not all((shims / f"{program}.waiting").exists() for program in ("ssh", "sftp")):
            assert time.monotonic() < deadline, "mssh or msftp did not push"
            time.sleep(0.05)
        yield Late(released, processes, time.time() + KEY_LIFETIME_S)
