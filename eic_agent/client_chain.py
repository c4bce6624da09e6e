"""What client.py needs beside another command: `--chain`, and wrong arguments.

client.py reads this file from its own directory and calls `handle`. It too runs on Python 3.6 and
later, imports nothing of the package and little else.

sshd ran the chained command before us, by its own rules and rights. So it is checked as sshd checks
it, it needs no right that sshd's own commands lack, and whatever fails here, it is run.
"""

import _signal  # type: ignore[import-not-found] # signal itself would load enum, re and more
import _socket
import errno
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
OUTPUT_LIMIT = 1 << 20  # bytes taken from one command, in whole lines
LONGER_S = 26.0  # as client.py has it: how much longer a lookup may take that waits for a start
LAST_WORD_S = 0.2  # beside a chained command, our own lookup ends this much before the deadline
ALARM_S = 1.0  # after the deadline the kernel ends what we could not
STOPPING = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM)
LONGER = 255  # no signal: what our lookup writes among them to be given LONGER_S more
LINKS = 40  # that the kernel follows in one path
FILE_TYPE, REGULAR_FILE = 0o170000, 0o100000  # S_IFMT and S_IFREG of stat.h
LOG, LOG_S = "/dev/log", 0.5  # syslog's socket; how long it may make us wait


def complain(text: str) -> int:
    """Write one line of printable ASCII to stderr, whatever the text; return exit status 1."""
    attempt(write, 2, b"eic-agent: " + printable(text) + b"\n")
    return 1


def report(text: str) -> int:
    """Complain, in the system's log too since sshd's stderr goes nowhere; return exit status 1.

    It is written as sshd writes its own errors: LOG_AUTHPRIV, LOG_ERR.
    """
    line = printable(text)
    try:
        log = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        log.settimeout(LOG_S)
        log.sendto(b"<83>eic-agent[%d]: " % posix.getpid() + line, LOG)
        log.close()
    except OSError:
        pass
    return complain(text)


def printable(text: str) -> bytes:
    """Make it one line of printable ASCII, whatever it is."""
    return "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text).encode("ascii")


def write(descriptor: int, data: bytes) -> None:
    """Write all of it; raises OSError."""
    while data:
        data = data[posix.write(descriptor, data) :]


def attempt(function: "Callable[..., object]", *arguments: object) -> None:
    """Call it, and go on where the kernel does not let us."""
    try:
        function(*arguments)
    except OSError:
        pass


class Unsafe(Exception):
    """sshd would not run this program; the text says why."""


def resolved(path: str) -> str:
    """Follow every link of an absolute path, as realpath(3) does; raises OSError."""
    found, names, links = "", path.split("/")[::-1], 0
    while names:
        name = names.pop()
        if name == "..":
            found = found.rpartition("/")[0]
        if name in ("", ".", ".."):
            continue
        try:
            target = posix.readlink(found + "/" + name)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            found += "/" + name  # no link
            continue
        links += 1
        if links > LINKS:
            raise OSError(errno.ELOOP, "Too many levels of symbolic links")
        if target[:1] == "/":
            found = ""
        names += target.split("/")[::-1]
    return found or "/"


def checked(program: str) -> str:
    """Return the path to execute for a program that sshd would run; raises Unsafe or OSError.

    sshd looks at its command before each run (safe_path in OpenSSH's misc.c), but of a chained one
    it sees only us, so the same check is ours. sshd then executes the name that it was given; here
    it is the resolved path, in which all that was checked can be changed by root alone. So nothing
    can be put in its place between the check and the execution, not even a link.
    """
    if program[:1] != "/":
        raise Unsafe("its path is not absolute")
    path = found = resolved(program)
    status = posix.stat(path)
    if status.st_mode & FILE_TYPE != REGULAR_FILE:
        raise Unsafe(path + " is not a regular file")
    while True:
        if status.st_uid != 0:
            raise Unsafe(path + " is not owned by root")
        if status.st_mode & 0o022:
            raise Unsafe(path + " can be written by others than its owner")
        if path == "/":
            return found
        path = path.rpartition("/")[0] or "/"
        status = posix.stat(path)


def become(command: "list[str]") -> int:
    """Become the chained command; return an exit status where that cannot be."""
    attempt(_signal.signal, _signal.SIGPIPE, _signal.SIG_DFL)
    name = "the chained command " + command[0]
    try:
        posix.execv(checked(command[0]), command)
    except Unsafe as error:
        return report(
            f"{name} is not run, since {error}; sshd would not run it either: it and every "
            "directory above it must be root's, and writable by nobody else"
        )
    except OSError as error:
        return report(f"{name} cannot be run ({error.strerror})")


class Child:
    """A process whose output is collected as it comes.

    It has a session of its own, which the targeted policy of SELinux leaves to sshd's commands,
    unlike a process group (setpgid). That policy forbids SIGKILL too: then SIGTERM must do, and
    the kernel's alarm, which needs nobody's leave.
    """

    def __init__(self, run: "Callable[[], int]", ends: float) -> None:
        """Start it: `run` replaces the new process, or returns its exit status.

        Raises OSError where it cannot be started with its output in our hands. All that this needs
        is done before it begins, so our own standard output is that of the last child from now on.
        """
        self.output = b""
        self.status = -1  # as from waitpid once it has ended
        self.reading, writing = posix.pipe()
        posix.set_blocking(self.reading, False)
        posix.dup2(writing, 1)
        posix.close(writing)
        self.pid = posix.fork()
        if self.pid == 0:
            status = 1
            try:
                _signal.set_wakeup_fd(-1)  # it wakes our parent
                attempt(posix.setsid)
                left = max(ends - monotonic(), 0)
                attempt(_signal.setitimer, _signal.ITIMER_REAL, left + ALARM_S)
                status = run()
            finally:
                posix._exit(status)  # noqa: SLF001 - public, whatever its name

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
        """Kill its whole session, if it has not ended by itself, and wait for nothing."""
        if self.status < 0:
            for number in _signal.SIGTERM, _signal.SIGKILL:
                attempt(posix.killpg, self.pid, number)
                attempt(posix.kill, self.pid, number)  # it may not have come as far as its session

    def lines(self) -> bytes:
        """Return its output where it ended well; of too much, whole lines."""
        if self.status != 0:
            return b""
        if len(self.output) == OUTPUT_LIMIT:
            return self.output[: self.output.rfind(b"\n") + 1]
        return self.output + b"\n" if self.output[-1:] not in (b"", b"\n") else self.output


def catch_signals() -> "tuple[int, int]":
    """Have signals written into a pipe, and return its ends: so they end poll(), however early."""
    woken, wake = posix.pipe()
    posix.set_blocking(woken, False)
    posix.set_blocking(wake, False)
    _signal.set_wakeup_fd(wake)
    for number in (_signal.SIGCHLD, *STOPPING):
        _signal.signal(number, lambda *_: None)
    return woken, wake


def wait(lookup: Child, chained: Child, woken: int, ends: float) -> bool:
    """Collect output until both have ended or their time is up; false where we are told to stop.

    Our own lookup may ask for LONGER_S more; the chained command is not waited for longer.
    """
    children, until = (lookup, chained), ends
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    by_pipe = {child.reading: child for child in children}
    for pipe in by_pipe:
        poll.register(pipe, select.POLLIN)
    while sum(child.has_ended() for child in children) < len(children):  # each one is asked
        left = (until if lookup.status < 0 else ends) - monotonic()
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


def beside(ours: "Callable[..., int]", command: "list[str]", ends: float) -> int:
    """Print what our lookup and the command print; return the exit status.

    `ours` is called with the moment that it ends at, and what to call where that is too early.
    Raises OSError where they cannot run beside each other; nothing has been printed then.
    """
    woken, wake = catch_signals()  # before anything starts, so that it cannot outlive us
    output = posix.dup(1)
    children = []  # type: list[Child]
    try:
        chained = Child(lambda: become(command), ends)
        children.append(chained)
        longer = bytes([LONGER])
        lookup = Child(
            lambda: ours(ends - LAST_WORD_S, lambda: posix.write(wake, longer)), ends + LONGER_S
        )
        children.append(lookup)
        told_to_stop = not wait(lookup, chained, woken, ends)
        for child in children:
            child.end()
        if told_to_stop:
            return 1
        write(output, lookup.lines() + chained.lines())
    except BrokenPipeError:
        return 1  # nobody reads
    except OSError:
        for child in children:
            child.end()
        posix.dup2(output, 1)
        raise
    return 0 if 0 in (lookup.status, chained.status) else 1


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
    try:
        return beside(lambda *until: answer(options, names, sshd, *until), command, ends)
    except OSError as error:
        # Whatever this process may not do or have, sshd alone could have run the command.
        report(f"{command[0]}, which is chained, runs alone, since it cannot beside us ({error})")
        return become(command)
