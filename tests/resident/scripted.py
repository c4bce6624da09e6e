"""An agent process whose lookups do what the user's name says; configured by a JSON file.

`python -m tests.resident.scripted CONFIG [PATH]` listens at PATH, else on systemd's socket.
"""

import dataclasses
import functools
import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path

from eic_agent.journal.writer import open_journal
from eic_agent.resident.connection import Reply, Request
from eic_agent.resident.limits import Counters, Handlers, Limits
from eic_agent.resident.listener import Listener, NoSocket
from eic_agent.resident.notify import Notifier
from eic_agent.resident.pressure import Pressure
from eic_agent.resident.service import Service


def answer(request: Request) -> Reply:
    verb, _, argument = request.user.partition(":")
    if verb == "sleep":
        time.sleep(float(argument))
    elif verb == "hang":
        threading.Event().wait()
    elif verb == "fail":
        time.sleep(float(argument or 0))
        raise RuntimeError("a fault of our own")
    elif verb == "undecided":
        return Reply(("metadata-unavailable: nobody there",), decided=False)
    elif verb == "large":
        return Reply(("x" * int(argument),))
    elif verb == "environment":
        return Reply(tuple(sorted(os.environ)))
    left_ms = round((request.ends - request.arrived) * 1000)
    return Reply((f"{request.user} {request.fingerprint} {request.sshd_pid} {left_ms}",))


def invalid(request: Request) -> Reply:
    return Reply(("invalid-config",), decided=False)


def status(counters: Counters) -> dict[str, object]:
    return dataclasses.asdict(counters)


def main(config: Path, path: Path | None) -> int:
    def load() -> Handlers:
        try:
            values = json.loads(config.read_text())
        except ValueError:
            return Handlers(invalid, status, frozenset(), 4.0, 0, invalid=f"{config.name}: no JSON")
        return Handlers(
            answer,
            status,
            frozenset(values.get("clients", ())),
            values.get("deadline_s", 4.0),
            values.get("idle_exit_s", 0),
            close=functools.partial(os.close, os.open(os.devnull, os.O_RDONLY)),
        )

    values = json.loads(config.read_text())
    if "user" in values:
        importlib.import_module("structlog.processors")  # that user may not see this Python's files
        os.setuid(values["user"])
    limits = Limits(**values.get("limits", {}))
    journal = open_journal(socket_path=Path("/nonexistent"))
    try:
        listener = Listener.at(path) if path else Listener.inherited(os.environ)
    except NoSocket as error:
        sys.stderr.write(f"{error}\n")
        return 1
    notifier, pressure = Notifier(os.environ), Pressure.told(os.environ)
    Service(listener, load, load(), journal, notifier, limits, pressure=pressure).run()
    journal.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None))
