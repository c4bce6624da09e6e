"""Asking the running agent on its socket, without starting one."""

import json
import socket
from pathlib import Path

from eic_agent import client
from eic_agent.errors import EicAgentError
from eic_agent.sshd.launch import ProgramFailed, Systemd, run

SERVICE, SOCKET = "eic-agent.service", "eic-agent.socket"
_TIMEOUT_S = 35.0  # imds.deadline_s is 30 at most


class NotRunning(EicAgentError):
    """No agent answers at the socket; the text says what happened."""


def unit_states(systemd: Systemd) -> dict[str, str]:
    """Give ActiveState of our socket and service; empty where no systemd runs."""
    if not systemd.booted.exists():
        return {}
    found = {}
    for unit in (SOCKET, SERVICE):
        try:
            shown = run([systemd.systemctl, "show", "-p", "LoadState,ActiveState", unit])
        except ProgramFailed:
            continue
        values = dict(line.partition("=")[::2] for line in shown.splitlines())
        loaded = values.get("LoadState")
        found[unit] = values.get("ActiveState", "") if loaded == "loaded" else f"{loaded}"
    return found


def require_running(path: Path, systemd: Systemd) -> None:
    """Raise NotRunning where connecting would start the agent, or nobody listens."""
    if str(path) != client.SOCKET:
        return  # not systemd's: who listens there runs
    state = unit_states(systemd).get(SERVICE)
    if state is not None and state not in ("active", "reloading", "activating"):
        raise NotRunning(f"{SERVICE} is {state}")


def ask(path: Path, request: bytes) -> str:
    """Send a request and give the text of the answer. Raises NotRunning."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(len(request).to_bytes(2, "big") + request)
            reply = b"".join(iter(lambda: connection.recv(65536), b""))
    except OSError as error:
        raise NotRunning(f"no agent answers at {path}: {error}") from None
    reply = reply.removeprefix(client.STARTING)
    if reply[:2] != client.GREETING + client.DECIDED:
        raise NotRunning(f"the agent at {path} does not answer this user")
    text = reply[6:].decode()
    try:
        json.loads(text)
    except ValueError:
        raise NotRunning(f"the agent at {path} did not answer to the end") from None
    return text
