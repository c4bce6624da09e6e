"""`python -m benchmarks`: measure, and print Markdown.

EIC_REFERENCE_DIR names a checkout of AWS's shell implementation to measure beside ours, as root;
EIC_GO_PEER the binary of github.com/commiterate/amazon-ec2-ssh-utils, a native implementation.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import measures, report
from benchmarks.agents import Activated, Resident
from benchmarks.launched import Launcher
from benchmarks.machine import PYTHON, BenchError, Machine, enter_namespaces, kind, set_up

_REFERENCE = "src/bin/eic_run_authorized_keys"
_SETTLE_S = 3.0


def main() -> int:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(prog="make bench", description="What lookups and logins cost.")
    parser.add_argument("--rounds", type=int, default=40, help="how often each contestant runs")
    parser.add_argument("--lookups", type=int, default=10_000, help="under load")
    parser.add_argument("--seconds", type=float, default=60.0, help="that the load takes")
    args = parser.parse_args()
    is_instance = enter_namespaces()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="eic-bench-") as directory,
            set_up(Path(directory), is_instance=is_instance) as machine,
        ):
            _measure(machine, args)
    except BenchError as error:
        print(f"make bench: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(machine: Machine, args: argparse.Namespace) -> None:
    reference = _reference(machine)
    print(f"{kind(machine.interpreter)}; {args.rounds} rounds, interleaved; load average of what")
    print(f"else ran on the machine, at the beginning: {os.getloadavg()[0]:.1f}.\n", flush=True)
    with (
        Launcher(PYTHON) as launcher,
        Resident(machine.agent, machine.directory / "warm.sock") as warm,
        Activated(machine.agent, machine.directory / "cold.sock") as cold,
    ):
        time.sleep(_SETTLE_S)
        rest = warm.vitals
        bench = measures.Bench(machine, launcher, warm, cold, args.rounds, reference, _go_peer())
        found = measures.lookups(bench)
        _print(report.lookups(found))
        opened = measures.opened(bench)
        _print(report.opened(opened))
        _print(report.breakdown(measures.breakdown(bench)))
        logins = measures.logins(bench)
        _print(report.logins(logins))
        _print(report.growth(measures.growth(bench)))
        crowds = measures.crowds(bench)
        _print(report.crowds(crowds))
        load = measures.minute(bench, args.lookups, args.seconds)
        time.sleep(_SETTLE_S)
        after = warm.vitals
        _print(report.minute(load, rest, after))
        _print(report.goals(found, opened, logins, crowds, load, rest, after))


def _reference(machine: Machine) -> Path | None:
    directory = os.environ.get("EIC_REFERENCE_DIR")
    if directory is None:
        _print(["Without the shell reference: EIC_REFERENCE_DIR names no checkout of it.", ""])
        return None
    if not machine.is_instance:
        _print(["Without the shell reference: it needs root and namespaces.", ""])
        return None
    path = Path(directory) / _REFERENCE
    if not path.exists():
        raise BenchError(f"EIC_REFERENCE_DIR: there is no {path}")
    return path


def _go_peer() -> Path | None:
    name = os.environ.get("EIC_GO_PEER")
    if name is None:
        _print(["Without the native peer: EIC_GO_PEER names no binary of it.", ""])
        return None
    if not os.access(name, os.X_OK):
        raise BenchError(f"EIC_GO_PEER: {name} cannot be run")
    return Path(name).absolute()


def _print(lines: list[str]) -> None:
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    sys.exit(main())
