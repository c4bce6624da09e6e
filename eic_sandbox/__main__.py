"""Run the sandbox in the foreground until interrupted; `make sandbox`."""

import argparse
import contextlib
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from eic_sandbox import iam
from eic_sandbox.guide import guide
from eic_sandbox.programs import SandboxError
from eic_sandbox.sandbox import MOST_INSTANCES, Options, running_sandbox


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make sandbox",
        description="A local EC2 Instance Connect: make sandbox SANDBOX='--instances 2'",
        epilog="docs/sandbox.md tells more.",
    )
    parser.add_argument(
        "--instances",
        type=int,
        choices=range(1, MOST_INSTANCES + 1),
        default=1,
        metavar="N",
        help=f"how many instances, 1 to {MOST_INSTANCES} (default: 1)",
    )
    parser.add_argument(
        "--iam",
        type=Path,
        default=iam.DEFAULT_FILE,
        metavar="FILE",
        help="principals, their access keys and their policies (default: %(default)s)",
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="CloudTrail's records go here, one JSON a line"
    )
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="keep logs and keys in this new directory (default: a temporary one)",
    )
    parser.add_argument(
        "--tunnel-port",
        type=int,
        default=0,
        metavar="PORT",
        help="the endpoint's loopback port; the AWS CLI's own tunnel wants 443 (default: any)",
    )
    parser.add_argument(
        "--machines",
        choices=("auto", "yes", "no"),
        default="auto",
        help="give each instance namespaces of its own, which needs root; or serve all at "
        "loopback ports of this machine, as the user that runs this (default: auto)",
    )
    parser.add_argument(
        "--one-process",
        action="store_true",
        help="start no resident agent: every lookup is a process of its own",
    )
    return parser


@contextlib.contextmanager
def _directory(wanted: Path | None) -> Iterator[Path]:
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="eic-sandbox-") as name:
            yield Path(name)
        return
    try:
        wanted.mkdir(parents=True)
    except OSError as error:
        raise SandboxError(f"--directory must be a new one: {error}") from error
    yield wanted.resolve()


def main(argv: Sequence[str] | None = None) -> int:
    """Print what to export and `ready`, then wait for SIGINT or SIGTERM."""
    args = _parser().parse_args(argv)
    options = Options(
        instances=args.instances,
        principals=args.iam,
        trail=args.log,
        tunnel_port=args.tunnel_port,
        machines={"auto": None, "yes": True, "no": False}[args.machines],
        resident=not args.one_process,
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with _directory(args.directory) as directory, running_sandbox(directory, options) as box:
            print(guide(box), file=sys.stderr, flush=True)
            for name, value in box.environment().items():
                print(f"export {name}={shlex.quote(value)}")
            print("ready", flush=True)
            stop.wait()
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
