"""Who connects: sshd's own client, another process of a client's user, or nobody we answer.

sshd may run the client as a user that others are, too (`agent.clients`, such as nobody). What such
a process can take of the agent must not be taken from sshd, so the two are told apart by what the
kernel says: sshd's client is a child of a process of root's that is called sshd, or a child's
child beside a chained command.
"""

import os
from pathlib import Path

from eic_agent.resident.connection import Peer, Standing

_SSHD = "sshd"  # since OpenSSH 9.8 the process is called sshd-session


class Peers:
    """Tells what peers may take."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._own_uid = os.geteuid()
        self._can_tell = self._process(1) is not None

    def standing(self, peer: Peer, clients: frozenset[int]) -> Standing:
        """Say what a peer may take, where `clients` are the user ids that are configured."""
        if peer.uid in (0, self._own_uid):
            return Standing.SSHD
        if peer.uid not in clients:
            return Standing.REFUSED
        if not self._can_tell:
            return Standing.UNTOLD
        return Standing.SSHD if self._is_sshds(peer.pid) else Standing.OTHER

    def _is_sshds(self, pid: int) -> bool:
        child = self._process(pid)
        parent = self._process(child[1]) if child else None
        if child is None or parent is None:
            return False
        name, grandparent, uid = parent
        if uid == 0:
            return name.startswith(_SSHD)
        # A login of the client's user has an sshd of that user between; a chained client has not.
        above = None if name.startswith(_SSHD) else self._process(grandparent)
        return above is not None and above[2] == 0 and above[0].startswith(_SSHD)

    def _process(self, pid: int) -> tuple[str, int, int] | None:
        """Give name, parent and user id of a process (proc(5)); None where there is none to see."""
        try:
            lines = (self._proc / str(pid) / "status").read_text(errors="replace").splitlines()
            found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
            return found["Name"], int(found["PPid"]), int(found["Uid"].split()[0])
        except (OSError, KeyError, ValueError):
            return None
