"""What sshd asks, and what it is answered."""

from dataclasses import dataclass

from eic_agent.errors import Reason
from eic_agent.journal.entries import Decision


@dataclass(frozen=True, slots=True)
class Question:
    """What sshd asks: the user, and the fingerprint of the key offered, or None for every key.

    `client_pid` and `client_uid` say by the kernel's word who asks on the socket.
    """

    user: str
    fingerprint: str | None = None
    sshd_pid: int | None = None
    client_pid: int | None = None
    client_uid: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Lines for sshd, and for the journal what was decided; `undecided` where nothing could be."""

    lines: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    undecided: Reason | None = None
    detail: str = ""
