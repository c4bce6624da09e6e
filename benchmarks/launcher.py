"""Starts programs and says what they cost; run by path, as `python3 -I -S launcher.py`.

A process of its own, and a small one: what the kernel tells of a child's peak memory is never less
than what the process had that made it, and starting a child takes longer the more its parent holds.

Each request on stdin and each answer on stdout is a marshalled tuple after four bytes of length:
request: number of copies, whether memory counts more than time, argv, environment;
answer: seconds from the first start to the last end, then for each copy: seconds, seconds of CPU,
peak bytes of its largest process, exit status, stdout.
"""

import marshal
import posix
import select
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    Cost = tuple[float, float, int, int, bytes]


def read_exactly(length: int) -> bytes:
    """Read from stdin, or end with it."""
    data = b""
    while len(data) < length:
        piece = posix.read(0, length - len(data))
        if not piece:
            raise SystemExit
        data += piece
    return data


def start(argv: "list[str]", environment: "dict[str, str]", weigh: bool) -> "tuple[int, int]":
    """Start a program as sshd does, with nothing to read and nobody to complain to."""
    reading, writing = posix.pipe()
    if not weigh:
        # Does not copy this process, so that starting costs the same whatever was done before.
        actions = [
            (posix.POSIX_SPAWN_DUP2, writing, 1),
            (posix.POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDONLY, 0),
            (posix.POSIX_SPAWN_OPEN, 2, "/dev/null", posix.O_WRONLY, 0),
        ]
        pid = posix.posix_spawn(argv[0], argv, environment, file_actions=actions)
    else:
        pid = posix.fork()
        if pid == 0:
            try:
                posix.dup2(writing, 1)
                null = posix.open("/dev/null", posix.O_RDWR)
                posix.dup2(null, 0)
                posix.dup2(null, 2)
                posix.execve(argv[0], argv, environment)
            finally:
                posix._exit(127)
    posix.close(writing)
    return pid, reading


def run(
    copies: int, weigh: bool, argv: "list[str]", environment: "dict[str, str]"
) -> "tuple[float, list[Cost]]":
    """Run the copies at once, and give what they cost when all have ended."""
    begun = monotonic()
    started = {}
    children = {}
    for _ in range(copies):
        moment = monotonic()
        pid, reading = start(argv, environment, weigh)
        started[pid] = moment
        children[reading] = pid
    costs: list[Cost] = []
    output = dict.fromkeys(children, b"")
    poll = select.poll()
    for reading in children:
        poll.register(reading, select.POLLIN)
    while children:
        for reading, _ in poll.poll():
            piece = posix.read(reading, 65536)
            output[reading] += piece
            if piece:
                continue
            poll.unregister(reading)
            posix.close(reading)
            pid = children.pop(reading)
            _, status, usage = posix.wait4(pid, 0)
            costs.append(
                (
                    monotonic() - started[pid],
                    usage.ru_utime + usage.ru_stime,
                    usage.ru_maxrss * 1024,
                    status,
                    output[reading],
                )
            )
    return monotonic() - begun, costs


def main() -> None:
    """Serve requests until stdin ends."""
    while True:
        request = marshal.loads(read_exactly(int.from_bytes(read_exactly(4), "big")))
        answer = marshal.dumps(run(*request), 2)
        posix.write(1, len(answer).to_bytes(4, "big"))
        while answer:
            answer = answer[posix.write(1, answer) :]


if __name__ == "__main__":
    main()
