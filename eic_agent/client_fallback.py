"""What client.py rarely needs: the agent that stands by, and the lookup in one process.

client.py reads this file from its own directory and calls `fall_back`. It too runs on Python 3.6
and later, imports nothing of the package and little else.
"""

import _signal  # type: ignore[import-not-found] # signal itself would load enum, re and more
import _socket
import posix
import sys
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FELL_BACK = b"EIC1-FELL-BACK"  # as service.py expects it: the whole of a request
STANDBY = "standby.sock"  # beside the agent's own socket
STANDBY_S = 4.0  # for the agent that stands by, once it runs
_TELL_US = 100000  # most that it may take to tell the agent that it was not heard
USER = "eic-agent"  # the agent's own
PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 38, 39  # prctl(2)
GRACE_S = 1.0  # a lookup in one process that has not ended this long after its time never will
LOG, LOG_S = "/dev/log", 0.5  # syslog's socket; how long it may make us wait


def complain(text: str) -> int:
    """Say it on stderr and, since sshd's goes nowhere, in the system's log; return exit status 1.

    One line of printable ASCII, whatever the text; as LOG_AUTHPRIV, LOG_ERR, which is sshd's own.
    """
    line = "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text).encode("ascii")
    try:
        posix.write(2, b"eic-agent: " + line + b"\n")
    except OSError:
        pass  # nobody reads
    try:
        log = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        log.settimeout(LOG_S)
        log.sendto(b"<83>eic-agent[%d]: " % posix.getpid() + line, LOG)
        log.close()
    except OSError:
        pass
    return 1


def tell(path: str) -> None:
    """Let the agent count that it was not heard, if it has a socket; hardly waits for it."""
    try:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        # The kernel lets us in when it is our turn, where others fill the backlog.
        timeval = bytes(8) + _TELL_US.to_bytes(8, sys.byteorder)
        connection.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, timeval)
        connection.connect(path)
        connection.send(len(FELL_BACK).to_bytes(2, "big") + FELL_BACK)
        connection.close()
    except OSError:
        pass


def fall_back(
    ask: "Callable[..., tuple[bytes, bytes]]",
    answer: "Callable[[bytes, bytes], int]",
    options: "dict[str, str]",
    names: "list[str]",
    sshd: int,
    ends: float,
) -> int:
    """Ask the agent that stands by, or become the lookup in one process; return the exit status.

    One agent stands by for all who ask, so however many they are, one process is started for them.
    It runs as the agent's user, whoever we are, so its entries in the journal are believed.
    """
    tell(options["--socket"])
    standby = options["--socket"].rpartition("/")[0] + "/" + STANDBY
    until = min(ends, monotonic() + STANDBY_S)
    try:
        posix.stat(standby)
        verdict, payload = ask(standby, names[0], "".join(names[1:]), sshd, until)
    except (FileNotFoundError, PermissionError, ConnectionRefusedError, ConnectionResetError):
        # There is none, or it does not answer the user that we are.
        return become_agent(options, names, sshd, ends)
    except (OSError, ValueError):
        return complain(
            "neither the agent nor the one that stands by answers; see what hinders them with: "
            "systemctl status eic-agent eic-agent-standby"
        )
    return answer(verdict, payload)


def give_up_root() -> None:
    """Become the agent's user for good, and make sure of it; raises OSError or LookupError.

    Where AuthorizedKeysCommandUser is root, what a stranger can put into metadata would otherwise
    be read with every privilege there is.
    """
    import ctypes  # only here: it takes as long as the rest of the client
    import pwd

    user = pwd.getpwnam(USER)
    posix.initgroups(USER, user.pw_gid)
    posix.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    posix.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    try:
        posix.setuid(0)
    except PermissionError:
        ids = {*posix.getresuid(), *posix.getresgid(), *posix.getgroups()}
        if 0 not in ids and prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1:
            return
    raise PermissionError(1, "root's privileges are still there")


def become_agent(options: "dict[str, str]", names: "list[str]", sshd: int, ends: float) -> int:
    """Become the agent's lookup in one process; return an exit status where that cannot be.

    The deadline is handed over twice: as the seconds left, counted from the start of the process,
    and as the moment on CLOCK_MONOTONIC, which counts where the agent is new enough to know it.
    """
    # Modules of the name service may hang, here and in what we become: the timer outlasts execve.
    _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
    _signal.setitimer(_signal.ITIMER_REAL, max(ends - monotonic(), 0) + GRACE_S)
    if posix.geteuid() == 0:
        try:
            give_up_root()
        except (ImportError, LookupError, OSError) as error:
            return complain(
                f"the agent's socket gives no answer, and a lookup in this process is not made as "
                f"root, but as the user {USER}, which cannot be ({error}); run systemd-sysusers"
            )
    agent, left = options["--agent"], ends - monotonic()
    if left <= 0:
        return complain("no answer in time; see what hinders it with: systemctl status eic-agent")
    lookup = [*names, "--deadline-s", f"{left:.3f}"]
    if names[0][:1] == "-":
        lookup = [*lookup[-2:], "--", *names]
    # Beside a chained command the agent's parent is not sshd, so it is told.
    environment = {
        **posix.environ,
        b"EIC_SSHD_PID": str(sshd).encode("ascii"),
        b"EIC_DEADLINE_MONOTONIC": f"{ends:.3f}".encode("ascii"),
    }
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    try:
        posix.execve(agent, [agent, "authorized-keys", *lookup], environment)
    except OSError as error:
        return complain(
            f"the agent's socket gives no answer, and {agent} cannot be run ({error.strerror}): "
            "install the package eic-agent again"
        )
