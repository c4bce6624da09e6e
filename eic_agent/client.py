#!/usr/bin/python3 -IS
"""Ask the resident agent which keys may log in as a user, and print them: an AuthorizedKeysCommand.

sshd runs this file for every key offered and Python compiles it anew each time, so it imports only
what is built in and `_socket`; what is rarely needed stays in client_chain.py and
client_fallback.py. It is run by path, on Python 3.6 and later, and imports nothing of the package.

The wire, one connection for each lookup: the request is two bytes of length (big-endian, as every
length), then fields joined by NUL: PROTOCOL, user, fingerprint or nothing, sshd's process id, and
the milliseconds that are left. The agent sends GREETING as soon as it has accepted; later DECIDED
with lines for sshd, or UNDECIDED with a line for stderr: that byte, four bytes of length, the
payload. Anything else, more or less, is no answer.

An agent that is only starting sends STARTING first, before it has imported what it needs. Then the
client waits longer, and starts no second cold process beside the first; the agent counts the
milliseconds from when it has started, and answers by what imds.start_s says. A client older than
this byte takes it for no answer. Where nobody greets or the agent is gone, the lookup is made in a
process of its own, which has to start, too, and so has the longer time.
"""

import _socket
import posix
import sys
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SOCKET, AGENT = "/run/eic-agent/agent.sock", "/usr/bin/eic-agent"
DEADLINE_S, GREETING_S = 4.0, 3.0  # the whole lookup; until the agent's first byte
LONGER_S = 26.0  # more than DEADLINE_S for the whole lookup, where what answers must be started
RETURN_S = 0.1  # kept back from what the agent is given, so that its answer arrives in time
PROTOCOL, STARTING, GREETING, DECIDED, UNDECIDED = b"EIC1", b"*", b"+", b"A", b"U"
OVERLOADED = b"overloaded: "  # begins what an agent says that has too much to do
REQUEST_LIMIT, ANSWER_LIMIT = 4096, 1 << 20
_TIMEVAL = b"".join(
    int(part).to_bytes(8, sys.byteorder) for part in (GREETING_S, GREETING_S % 1 * 1e6)
)


def ask(
    path: str,
    user: str,
    fingerprint: str,
    sshd: int,
    ends: float,
    starting: "Callable[[], object]" = lambda: None,
) -> "tuple[bytes, bytes]":
    """Return verdict and payload; `starting` is called once where there will be more time for it.

    Raises TimeoutError where an agent that had greeted does not answer in time, OSError or
    ValueError where there is none, or no whole answer of one.
    """
    encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
    left_ms = int((ends - monotonic() - RETURN_S) * 1000)
    fields = "\0".join((user, fingerprint, str(sshd), str(left_ms))).encode(encoding, errors)
    request = PROTOCOL + b"\0" + fields
    if len(request) > REQUEST_LIMIT:
        raise ValueError("request too long")
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        # Where others fill the backlog, the kernel lets us in when it is our turn: not so poll().
        connection.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, _TIMEVAL)
        connection.connect(path)
        connection.settimeout(GREETING_S)
        try:
            connection.sendall(len(request).to_bytes(2, "big") + request)
        except (BrokenPipeError, ConnectionResetError):
            pass  # an overloaded agent answers without reading
        greeted, answer, length, until = False, b"", 1, monotonic() + GREETING_S
        while len(answer) < length:
            try:
                connection.settimeout(max(min(until, ends) - monotonic(), 0.001))
                received = connection.recv(65536)
            except _socket.timeout:
                if greeted:
                    raise TimeoutError from None
                raise ValueError("nobody greets") from None
            if not received:
                raise ValueError("no whole answer") if greeted else ConnectionRefusedError
            if received[:1] == STARTING and not greeted:
                received, ends = received[1:], ends + LONGER_S
                starting()
            answer, greeted, until = answer + received, True, ends
            if answer[:1] not in (GREETING, b""):
                raise ValueError("no whole answer")
            length = 6 + int.from_bytes(answer[2:6], "big") if len(answer) > 5 else 6
            if length > ANSWER_LIMIT:
                raise ValueError("answer too long")
    finally:
        connection.close()
    if len(answer) > length or answer[1:2] not in (DECIDED, UNDECIDED):
        raise ValueError("not an answer")
    return answer[1:2], answer[6:]


def rarely(file: str, function: str, *arguments: object) -> int:
    """Return the exit status from a function of a file that lies beside this one."""
    path = (__file__.rpartition("/")[0] or ".") + "/" + file
    module = type(sys)(file[:-3])
    with open(path, encoding="utf-8") as source:
        exec(compile(source.read(), path, "exec"), module.__dict__)  # noqa: S102 - root's, like this
    return int(getattr(module, function)(*arguments))


def answer(
    options: "dict[str, str]",
    names: "list[str]",
    sshd: int,
    ends: float,
    starting: "Callable[[], object]" = lambda: None,
) -> int:
    """Print the keys for `names`, a user and perhaps a fingerprint; return the exit status.

    `starting` is called where this may take LONGER_S more.
    """
    fingerprint = "".join(names[1:])
    try:
        verdict, payload = ask(options["--socket"], names[0], fingerprint, sshd, ends, starting)
        if verdict == UNDECIDED and payload[: len(OVERLOADED)] == OVERLOADED:
            raise ValueError("overloaded")
    except TimeoutError:
        return rarely("client_fallback.py", "become_agent", options, names, sshd, 0.0)
    except (OSError, ValueError):
        starting()
        question = options, names, sshd, ends + LONGER_S
        return rarely("client_fallback.py", "fall_back", ask, tell, *question)
    return tell(verdict, payload)


def tell(verdict: bytes, payload: bytes) -> int:
    """Write an answer for sshd, or why there is none; return the exit status."""
    try:
        while payload:
            payload = payload[posix.write(1 if verdict == DECIDED else 2, payload) :]
    except OSError:
        return 1  # nobody reads
    return 0 if verdict == DECIDED else 1


def main() -> int:
    """Do what sys.argv says; return the exit status."""
    ends = monotonic() + DEADLINE_S
    options = {"--socket": SOCKET, "--agent": AGENT}
    names = sys.argv[1:]
    while names[1:] and names[0] in options:
        options[names[0]] = names[1]
        del names[:2]
    if len(names) in (1, 2) and "--chain" not in names and names[0][:1] != "-":
        return answer(options, names, posix.getppid(), ends)
    return rarely("client_chain.py", "handle", answer, options, names, posix.getppid(), ends)


if __name__ == "__main__":
    # Nothing is buffered, and tearing the interpreter down takes longer than a lookup.
    posix._exit(main())  # noqa: SLF001 - public, whatever its name
