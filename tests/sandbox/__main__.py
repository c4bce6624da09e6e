"""Run the sandbox in the foreground until interrupted; `make sandbox`."""

import shlex
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.sandbox.programs import SandboxError
from tests.sandbox.sandbox import running_sandbox


def main() -> int:
    """Print what to export and `ready`, then wait for SIGINT or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with (
            tempfile.TemporaryDirectory(prefix="eic-sandbox-") as directory,
            running_sandbox(Path(directory)) as sandbox,
        ):
            for name, value in sandbox.environment().items():
                print(f"export {name}={shlex.quote(value)}")
            print("ready", flush=True)
            stop.wait()
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
