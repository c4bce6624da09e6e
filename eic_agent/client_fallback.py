"""What client.py rarely needs: the lookup in one process, `--chain`, wrong arguments.

client.py reads this file from its own directory and calls `become_agent` or `handle`. It too runs
on Python 3.6 and later, imports nothing of the package and little else.
"""

import _signal  # type: ignore[import-not-found] # signal itself would load enum, re and more
import _socket
import posix
import select
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

USAGE = (
    "usage: eic-authorized-keys [--socket PATH] [--agent PATH] "
    "USER [FINGERPRINT] [--chain CMD ARG...]"
)
FELL_BACK = b"EIC1-FELL-BACK"  # as service.py expects it: the whole of a request
OUTPUT_LIMIT = 1 << 20  # bytes taken from one command, in whole lines
LONGER_S = 26.0  # as client.py has it: how much longer a lookup may take that waits for a start
LAST_WORD_S = 0.2  # beside a chained command, our own lookup ends this much before the deadline
STOPPING = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM)
LONGER = 255  # no signal: what our lookup writes among them to be given LONGER_S more


def complain(text: str) -> int:
    """Write one line of printable ASCII to stderr, whatever the text; return exit status 1."""
    line = "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text)
    write(2, b"eic-agent: " + line.encode("ascii") + b"\n")
    return 1


def write(descriptor: int, data: bytes) -> None:
    """Write all of it, unless nobody reads."""
    try:
        while data:
            data = data[posix.write(descriptor, data) :]
    except OSError:
        pass


def tell(path: str) -> None:
    """Let the agent count that it was not heard, if it has a socket; waits for nothing."""
    try:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        connection.setblocking(False)
        connection.connect(path)
        connection.send(len(FELL_BACK).to_bytes(2, "big") + FELL_BACK)
        connection.close()
    except OSError:
        pass


def become_agent(options: "dict[str, str]", names: "list[str]", sshd: int, ends: float) -> int:
    """Become the agent's lookup in one process; return an exit status where that cannot be.

    The deadline is handed over twice: as the seconds left, counted from the start of the process,
    and as the moment on CLOCK_MONOTONIC, which counts where the agent is new enough to know it.
    """
    tell(options["--socket"])
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


class Child:
    """A process in a group of its own, whose output is collected as it comes."""

    def __init__(self, run: "Callable[[], int]") -> None:
        """Start it: `run` replaces the new process, or returns its exit status."""
        self.output = b""
        self.reading, writing = posix.pipe()
        self.status = -1  # as from waitpid once it has ended
        self.pid = posix.fork()
        if self.pid == 0:
            status = 1
            try:
                _signal.set_wakeup_fd(-1)  # it wakes our parent
                posix.setpgid(0, 0)
                posix.dup2(writing, 1)
                status = run()
            finally:
                posix._exit(status)  # noqa: SLF001 - public, whatever its name
        posix.close(writing)
        posix.set_blocking(self.reading, False)

    def collect(self) -> bool:
        """Take what the pipe holds, beyond the limit without keeping it; false at its end."""
        for _ in range(16):  # a pipe holds 64 KiB; one that never empties must not hold us
            try:
                received = posix.read(self.reading, 65536)
            except BlockingIOError:
                return True
            if not received:
                return False
            self.output += received[: OUTPUT_LIMIT - len(self.output)]
        return True

    def has_ended(self) -> bool:
        """Ask the kernel; what others write into the pipe after its end is not waited for."""
        if self.status < 0:
            pid, status = posix.waitpid(self.pid, posix.WNOHANG)
            if pid == self.pid:
                self.collect()
                self.status = status
        return self.status >= 0

    def end(self) -> None:
        """Kill the whole group, if it has not ended by itself."""
        if not self.has_ended():
            for kill in posix.killpg, posix.kill:  # it may not have come as far as its own group
                try:
                    kill(self.pid, _signal.SIGKILL)
                except ProcessLookupError:
                    pass
            posix.waitpid(self.pid, 0)

    def lines(self) -> bytes:
        """Return its output where it ended well; of too much, whole lines."""
        if self.status != 0:
            return b""
        if len(self.output) == OUTPUT_LIMIT:
            return self.output[: self.output.rfind(b"\n") + 1]
        return self.output + b"\n" if self.output[-1:] not in (b"", b"\n") else self.output


def become(command: "list[str]") -> int:
    """Become the chained command; return an exit status where that cannot be."""
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    try:
        posix.execv(command[0], command)
    except OSError as error:
        return complain(f"the chained command {command[0]} cannot be run ({error.strerror})")


def catch_signals() -> "tuple[int, int]":
    """Have signals written into a pipe, and return its ends: so they end poll(), however early."""
    woken, wake = posix.pipe()
    posix.set_blocking(woken, False)
    posix.set_blocking(wake, False)
    _signal.set_wakeup_fd(wake)
    for number in (_signal.SIGCHLD, *STOPPING):
        _signal.signal(number, lambda *_: None)
    return woken, wake


def wait(ours: Child, chained: Child, woken: int, ends: float) -> bool:
    """Collect output until both have ended or their time is up; false where we are told to stop.

    Our own lookup may ask for LONGER_S more; the chained command is not waited for longer.
    """
    until = ends
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    by_pipe = {child.reading: child for child in (ours, chained)}
    for pipe in by_pipe:
        poll.register(pipe, select.POLLIN)
    while not (ours.has_ended() and chained.has_ended()):
        left = (ends if ours.has_ended() else until) - monotonic()
        if left <= 0:
            break
        for pipe, _ in poll.poll(left * 1000 + 1):
            if pipe != woken:
                child = by_pipe[pipe]
                if child.has_ended() or not child.collect():
                    poll.unregister(pipe)
                continue
            told = posix.read(woken, 512)
            if set(told).intersection(STOPPING):
                return False
            if LONGER in told:
                until = ends + LONGER_S
    return True


def handle(
    answer: "Callable[..., int]",
    options: "dict[str, str]",
    arguments: "list[str]",
    sshd: int,
    ends: float,
) -> int:
    """Handle `--chain`, and arguments that make no lookup; return the exit status."""
    cut = arguments.index("--chain") if "--chain" in arguments else len(arguments)
    names, command = arguments[:cut], arguments[cut + 1 :]
    usable = len(names) in (1, 2) and names[0][:2] != "--"
    if not usable or ("--chain" in arguments and not command):
        return complain(USAGE)
    if not command:
        return answer(options, names, sshd, ends)
    woken, wake = catch_signals()  # before anything starts, so that it cannot outlive us
    chained = Child(lambda: become(command))
    longer = lambda: posix.write(wake, bytes([LONGER]))  # noqa: E731 - a name for an argument
    ours = Child(lambda: answer(options, names, sshd, ends - LAST_WORD_S, longer))
    told_to_stop = not wait(ours, chained, woken, ends)
    ours.end()
    chained.end()
    if told_to_stop:
        return 1
    write(1, ours.lines() + chained.lines())
    return 0 if 0 in (ours.status, chained.status) else 1
