"""client.py under every Python of this machine, against an agent that is scripted to fail."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import eic_agent.client
from eic_agent import client_chain
from tests.support import lacking, not_as_root, program, pythons, root

CLIENT = Path(eic_agent.client.__file__)
KEYS = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==\nssh-rsa AAAAB3NzaC1yc2E=\n"
Script = Callable[[socket.socket], None]


PYTHONS = pythons()
# The whole lookup, where what answers has to be started.
WITH_A_START_S = eic_agent.client.DEADLINE_S + eic_agent.client.LONGER_S


class FakeAgent:
    """A socket whose every connection is handled by a script in a thread of its own."""

    def __init__(self, path: Path, script: Script, backlog: int = 64) -> None:
        self.path = path
        self._script = script
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(backlog)
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._ended.is_set():
                connection.close()
                return
            thread = threading.Thread(target=self._handle, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _handle(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self._script(connection)

    def close(self) -> None:
        self._ended.set()
        with socket.socket(socket.AF_UNIX) as waker:
            waker.connect(str(self.path))
        for thread in self._threads:
            thread.join()
        self._listener.close()


Start = Callable[[Script], Path]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Start]:
    """Starts a scripted agent; gives its socket."""
    started: list[FakeAgent] = []

    def start(script: Script) -> Path:
        started.append(FakeAgent(tmp_path / f"agent-{len(started)}.sock", script))
        return started[-1].path

    yield start
    for one in started:
        one.close()


def answering(payload: bytes = KEYS, verdict: bytes = b"A") -> Script:
    """Plays an agent that does as the wire says."""

    def script(connection: socket.socket) -> None:
        connection.sendall(b"+")
        read_request(connection)
        connection.sendall(verdict + len(payload).to_bytes(4, "big") + payload)

    return script


def sending(*pieces: bytes, then_silent: bool = False) -> Script:
    """Plays an agent that reads the request, sends these bytes and closes, or stays silent."""

    def script(connection: socket.socket) -> None:
        read_request(connection)
        for piece in pieces:
            connection.sendall(piece)
        if then_silent:
            connection.recv(1)  # until the client is gone

    return script


def read_request(connection: socket.socket) -> list[bytes]:
    with connection.makefile("rb") as stream:
        fields: list[bytes] = stream.read(int.from_bytes(stream.read(2), "big")).split(b"\0")
    return fields


class Run:
    """One client under each Python, all at once."""

    def __init__(self, *arguments: str | bytes | Path, client: Path = CLIENT) -> None:
        self.done: dict[str, tuple[int, bytes, bytes]] = {}
        self.pids: dict[str, int] = {}
        running = {}
        before = not_as_root()
        for version, python in PYTHONS.items():
            words = [*before, python, "-I", "-S", client, *arguments]
            argv = [os.fsencode(word) for word in words]
            running[version] = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PATH": "/usr/bin:/bin"},
            )
            self.pids[version] = running[version].pid
        try:
            for version, process in running.items():
                out, err = process.communicate(timeout=60)
                self.done[version] = process.returncode, out, err
        finally:
            for process in running.values():
                process.kill()
                process.communicate()

    def each(self, status: int, out: bytes, stderr_lines: int = 0) -> None:
        for version, (returned, printed, errors) in self.done.items():
            assert (returned, printed) == (status, out), (version, errors)
            assert errors.count(b"\n") == stderr_lines, (version, errors)
            assert b"Traceback" not in errors, (version, errors)


@pytest.fixture
def hurried(tmp_path: Path) -> Path:
    """The same client with less patience: 1 s for a lookup, 2 s more for a start."""
    for file in CLIENT.parent.glob("client*.py"):
        source = file.read_text().replace("LONGER_S = 26.0", "LONGER_S = 2.0")
        source = source.replace("GREETING_S = 4.0, 3.0", "GREETING_S = 1.0, 0.7")
        (tmp_path / file.name).write_text(source)
    assert client_chain.LONGER_S == eic_agent.client.LONGER_S == 26.0
    assert (eic_agent.client.DEADLINE_S, eic_agent.client.GREETING_S) == (4.0, 3.0)
    return tmp_path / CLIENT.name


@pytest.fixture
def one_process(tmp_path: Path) -> Path:
    """An executable in the agent's place, which prints how it was run."""
    path = tmp_path / "eic-agent"
    path.write_text('#!/bin/sh\nfor word; do echo "$word"; done\necho "$EIC_SSHD_PID $$"\n')
    path.chmod(0o755)
    return path


def assert_fell_back(run: Run, *names: str) -> None:
    """In the same process, with the deadline's rest and sshd's process id, status passed on."""
    for version, (status, out, errors) in run.done.items():
        assert (status, errors) == (0, b""), (version, errors)
        *words, pids = os.fsdecode(out).splitlines()
        assert words[:-1] == ["authorized-keys", *names, "--deadline-s"], version
        assert 0 < float(words[-1]) <= WITH_A_START_S, version
        assert pids == f"{os.getpid()} {run.pids[version]}", version


# -- the agent answers ---------------------------------------------------------------------------


def test_prints_what_the_agent_decided(agent: Start) -> None:
    Run("--socket", agent(answering()), "ec2-user", "SHA256:abc").each(0, KEYS)


def test_no_key_is_a_decision(agent: Start) -> None:
    Run("--socket", agent(answering(b"")), "ec2-user").each(0, b"")


def test_tells_user_fingerprint_sshds_pid_and_the_time_left(agent: Start) -> None:
    requests: list[list[bytes]] = []

    def script(connection: socket.socket) -> None:
        connection.sendall(b"+")
        requests.append(read_request(connection))
        connection.sendall(b"A\0\0\0\0")

    path = agent(script)
    Run("--socket", path, "ec2-user", "SHA256:abc").each(0, b"")
    assert len(requests) == len(PYTHONS)
    for *fields, left_ms in requests:
        assert fields == [b"EIC1", b"ec2-user", b"SHA256:abc", str(os.getpid()).encode()]
        assert 0 < int(left_ms) <= 3900
    requests.clear()
    Run("--socket", path, "ec2-user").each(0, b"")
    assert {tuple(fields[:3]) for fields in requests} == {(b"EIC1", b"ec2-user", b"")}


@pytest.mark.parametrize("user", [b"caf\xc3\xa9", b"\xff\xfe", b"a b\nc", b"-x", b""])
def test_passes_every_byte_of_a_user_name(agent: Start, user: bytes) -> None:
    seen: set[bytes] = set()

    def script(connection: socket.socket) -> None:
        connection.sendall(b"+")
        seen.add(read_request(connection)[1])
        connection.sendall(b"A\0\0\0\0")

    Run("--socket", agent(script), user, "SHA256:abc").each(0, b"")
    assert seen == {user}


def test_undecided_is_status_1_and_its_line_on_stderr(agent: Start) -> None:
    run = Run("--socket", agent(answering(b"metadata-unavailable: no route\n", b"U")), "ec2-user")
    run.each(1, b"", stderr_lines=1)
    assert {errors for _, _, errors in run.done.values()} == {b"metadata-unavailable: no route\n"}


def test_an_answer_may_come_in_any_pieces(agent: Start) -> None:
    answer = b"A" + len(KEYS).to_bytes(4, "big") + KEYS
    pieces = [b"+", *(answer[i : i + 1] for i in range(len(answer)))]
    Run("--socket", agent(sending(*pieces)), "ec2-user").each(0, KEYS)


def test_a_large_answer_is_printed_whole(agent: Start) -> None:
    keys = KEYS * 10_000
    Run("--socket", agent(answering(keys)), "ec2-user").each(0, keys)


def test_an_overloaded_agent_may_answer_without_reading(agent: Start) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(b"+U" + (11).to_bytes(4, "big") + b"overloaded\n")

    Run("--socket", agent(script), "ec2-user").each(1, b"", stderr_lines=1)


def test_sshd_may_stop_reading(agent: Start) -> None:
    path = agent(answering(KEYS * 10_000))
    for version, python in PYTHONS.items():
        reading, writing = os.pipe()
        client = subprocess.Popen(
            [python, "-I", "-S", CLIENT, "--socket", path, "ec2-user"],
            stdout=writing,
            stderr=subprocess.PIPE,
        )
        os.close(writing)
        os.close(reading)
        assert client.communicate(timeout=60)[1] == b"", version


def test_imports_nothing_but_what_is_built_in_and_socket(agent: Start) -> None:
    program = (
        "import sys; path, socket = sys.argv[1:]; before = set(sys.modules)\n"
        "names = {'__name__': 'client', '__file__': path}\n"
        "exec(compile(open(path, encoding='utf-8').read(), path, 'exec'), names)\n"
        "names['ask'](socket, 'ec2-user', '', 1, names['monotonic']() + 9)\n"
        "new = set(sys.modules) - before - set(sys.builtin_module_names) - {'_socket'}\n"
        "print(sorted(new))"
    )
    path = agent(answering())
    for version, python in PYTHONS.items():
        argv = [python, "-I", "-S", "-c", program, str(CLIENT), str(path)]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n", version


# -- the agent does not answer -------------------------------------------------------------------

NO_ANSWER = {
    "closes at once": lambda _: None,
    "closes after reading": sending(),
    "closes after the greeting": sending(b"+"),
    "greets with something else": sending(b"-A\0\0\0\0"),
    "speaks HTTP": sending(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "verdict unknown": sending(b"+X\0\0\0\0"),
    "length cut short": sending(b"+A\0\0"),
    "payload cut short": sending(b"+A\0\0\0\x09ssh-rsa A"[:-1]),
    "payload followed by more": sending(b"+A\0\0\0\1xy"),
    "length out of bounds": sending(b"+A\xff\xff\xff\xff", then_silent=True),
    "silent": sending(then_silent=True),
}


@pytest.mark.parametrize("script", NO_ANSWER.values(), ids=NO_ANSWER)
def test_becomes_the_one_process_lookup(agent: Start, one_process: Path, script: Script) -> None:
    path = agent(script)
    run = Run("--socket", path, "--agent", one_process, "ec2-user", "SHA256:abc")
    assert_fell_back(run, "ec2-user", "SHA256:abc")


def test_a_silent_agent_costs_no_more_than_the_greeting_may_take(
    agent: Start, one_process: Path
) -> None:
    run = Run("--socket", agent(sending(then_silent=True)), "--agent", one_process, "ec2-user")
    for _, out, _ in run.done.values():
        left = float(out.splitlines()[-2])
        assert 0 < left <= WITH_A_START_S - eic_agent.client.GREETING_S


@pytest.mark.parametrize("kind", ["absent", "refusing", "no socket", "full", "path too long"])
def test_falls_back_where_nobody_listens(tmp_path: Path, one_process: Path, kind: str) -> None:
    path = tmp_path / "agent.sock"
    with contextlib.ExitStack() as stack:
        if kind == "no socket":
            path.touch()
        elif kind == "path too long":
            path = tmp_path / ("x" * 120)
        elif kind != "absent":
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
        if kind == "full":
            listener.listen(0)
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.connect(str(path))
        run = Run("--socket", path, "--agent", one_process, "ec2-user")
    assert_fell_back(run, "ec2-user")


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[Start]:
    """Starts a scripted agent that stands by, beside where the other one is."""
    with contextlib.ExitStack() as stack:

        def start(script: Script) -> Path:
            started = FakeAgent(tmp_path / "standby.sock", script)
            stack.callback(started.close)
            return started.path

        yield start


OVERLOADED = answering(b"overloaded: too many lookups at once; try again\n", b"U")


@pytest.mark.parametrize("script", [OVERLOADED, *NO_ANSWER.values()], ids=["busy", *NO_ANSWER])
def test_the_agent_that_stands_by_is_asked_before_a_process_is_started(
    agent: Start, standby: Start, one_process: Path, script: Script
) -> None:
    standby(answering())
    Run("--socket", agent(script), "--agent", one_process, "ec2-user").each(0, KEYS)


def test_an_overloaded_agent_is_fallen_back_from(agent: Start, one_process: Path) -> None:
    run = Run("--socket", agent(OVERLOADED), "--agent", one_process, "ec2-user")
    assert_fell_back(run, "ec2-user")


@pytest.mark.parametrize("script", [OVERLOADED, NO_ANSWER["speaks HTTP"]], ids=["busy", "HTTP"])
def test_where_both_agents_are_overloaded_no_process_is_started(
    agent: Start, standby: Start, one_process: Path, script: Script
) -> None:
    standby(script)
    run = Run("--socket", agent(OVERLOADED), "--agent", one_process, "ec2-user")
    run.each(1, b"", stderr_lines=1)


def closing(connection: socket.socket) -> None:
    """Sends a peer away, whose user it does not answer."""


def test_a_user_whom_neither_agent_answers_makes_the_lookup_itself(
    agent: Start, standby: Start, one_process: Path
) -> None:
    standby(closing)
    run = Run("--socket", agent(closing), "--agent", one_process, "ec2-user")
    assert_fell_back(run, "ec2-user")


def test_a_full_backlog_is_waited_for_in_turn(tmp_path: Path, one_process: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as stranger:
        listener.bind(str(path))
        listener.listen(0)
        stranger.connect(str(path))

        def serve() -> None:
            time.sleep(0.3)
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    answering()(connection)

        threading.Thread(target=serve, daemon=True).start()
        stranger.shutdown(socket.SHUT_WR)
        Run("--socket", path, "--agent", one_process, "ec2-user").each(0, KEYS)
        listener.shutdown(socket.SHUT_RDWR)


def test_a_name_too_long_for_the_socket_is_left_to_the_agent(
    agent: Start, one_process: Path
) -> None:
    name = "x" * 5000
    run = Run("--socket", agent(answering()), "--agent", one_process, name)
    assert_fell_back(run, name)


def test_a_user_name_is_never_an_option_of_the_agent(tmp_path: Path, one_process: Path) -> None:
    run = Run("--socket", tmp_path / "none", "--agent", one_process, "-x", "SHA256:abc")
    for version, (status, out, _) in run.done.items():
        words = out.decode().splitlines()
        assert (status, words[:2]) == (0, ["authorized-keys", "--deadline-s"]), version
        assert words[3:-1] == ["--", "-x", "SHA256:abc"], version


def test_the_agents_own_status_and_output_pass_through(tmp_path: Path) -> None:
    one_process = tmp_path / "eic-agent"
    one_process.write_text("#!/bin/sh\necho key\necho why >&2\nexit 7\n")
    one_process.chmod(0o755)
    run = Run("--socket", tmp_path / "none", "--agent", one_process, "ec2-user")
    run.each(7, b"key\n", stderr_lines=1)


def test_the_agent_starts_with_pipes_that_can_kill_it(tmp_path: Path) -> None:
    one_process = tmp_path / "eic-agent"
    one_process.write_text("#!/bin/sh\ngrep SigIgn /proc/$$/status\n")
    one_process.chmod(0o755)
    run = Run("--socket", tmp_path / "none", "--agent", one_process, "ec2-user")
    for version, (_, out, _) in run.done.items():
        assert int(out.split()[1], 16) & 1 << (signal.SIGPIPE - 1) == 0, version


def test_without_agent_and_socket_one_line_says_what_to_do(tmp_path: Path) -> None:
    nowhere = tmp_path / "none"
    run = Run("--socket", nowhere, "--agent", nowhere, "ec2-user")
    run.each(1, b"", stderr_lines=1)
    for _, _, errors in run.done.values():
        assert os.fsencode(nowhere) in errors
        assert b"install" in errors


def test_an_agent_that_drips_ends_with_the_deadline(agent: Start, one_process: Path) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(b"+A\0\1\0\0")
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    run = Run("--socket", agent(script), "--agent", one_process, "ec2-user")
    run.each(1, b"", stderr_lines=1)


def test_an_agent_that_goes_while_it_works_leaves_the_rest_of_the_time(
    agent: Start, one_process: Path
) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(b"+")
        time.sleep(1)

    run = Run("--socket", agent(script), "--agent", one_process, "ec2-user")
    assert_fell_back(run, "ec2-user")
    assert all(float(out.splitlines()[-2]) <= WITH_A_START_S - 1 for _, out, _ in run.done.values())


def test_an_agent_that_greeted_and_hangs_is_not_competed_with(
    agent: Start, one_process: Path
) -> None:
    script = sending(b"+", then_silent=True)
    run = Run("--socket", agent(script), "--agent", one_process, "ec2-user")
    run.each(1, b"", stderr_lines=1)


# -- the agent is starting ------------------------------------------------------------------------


def starting(*then: bytes) -> Script:
    """Plays an agent that needs longer to start than a lookup may take, and then sends these."""

    def script(connection: socket.socket) -> None:
        connection.sendall(b"*")
        read_request(connection)
        time.sleep(1.5)  # of a hurried client
        for piece in then:
            connection.sendall(piece)
            time.sleep(0.05)

    return script


def test_an_agent_that_is_starting_is_waited_for(
    agent: Start, one_process: Path, hurried: Path
) -> None:
    path = agent(starting(b"+", b"A" + len(KEYS).to_bytes(4, "big") + KEYS))
    run = Run("--socket", path, "--agent", one_process, "ec2-user", client=hurried)
    run.each(0, KEYS)


def test_an_agent_that_goes_while_it_starts_leaves_the_rest_of_the_longer_time(
    agent: Start, one_process: Path, hurried: Path
) -> None:
    path = agent(starting())
    run = Run("--socket", path, "--agent", one_process, "ec2-user", client=hurried)
    assert_fell_back(run, "ec2-user")


@pytest.mark.parametrize("sent", [b"**", b"+*", b"*A\0\0\0\0"])
def test_starting_comes_once_and_first(agent: Start, one_process: Path, sent: bytes) -> None:
    run = Run("--socket", agent(sending(sent)), "--agent", one_process, "ec2-user")
    assert_fell_back(run, "ec2-user")


def test_the_deadline_is_handed_over_as_a_moment(tmp_path: Path) -> None:
    one_process = tmp_path / "eic-agent"
    one_process.write_text('#!/bin/sh\necho "$EIC_DEADLINE_MONOTONIC"\n')
    one_process.chmod(0o755)
    before = time.monotonic()
    run = Run("--socket", tmp_path / "none", "--agent", one_process, "ec2-user")
    for version, (_, out, _) in run.done.items():
        began = float(out) - WITH_A_START_S
        assert before <= began + 0.001 <= time.monotonic(), version


def test_beside_a_chained_command_a_start_is_waited_for_too(
    agent: Start, one_process: Path, hurried: Path
) -> None:
    path = agent(starting(b"+", b"A" + len(KEYS).to_bytes(4, "big") + KEYS))
    run = Run("--socket", path, "--agent", one_process, *sh("echo theirs"), client=hurried)
    run.each(0, KEYS + b"theirs\n")


def test_a_chained_command_that_hangs_is_not_waited_for_as_long(
    agent: Start, one_process: Path, hurried: Path
) -> None:
    hurried.write_text(hurried.read_text().replace("LONGER_S = 2.0", "LONGER_S = 60.0"))
    path = agent(starting(b"+", b"A" + len(KEYS).to_bytes(4, "big") + KEYS))
    begun = time.monotonic()
    hangs = sh("exec sleep 1000")
    Run("--socket", path, "--agent", one_process, *hangs, client=hurried).each(0, KEYS)
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a", "b", "c"],
        ["--socket"],
        ["--socket", "x"],
        ["--help"],
        ["--chain"],
        ["ec2-user", "--chain"],
        ["--chain", "/bin/true"],
        ["a", "b", "c", "--chain", "/bin/true"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_get_a_usage_line(arguments: list[str]) -> None:
    run = Run(*arguments)
    run.each(1, b"", stderr_lines=1)
    assert all(b"usage: eic-authorized-keys" in errors for _, _, errors in run.done.values())


def test_what_reaches_the_terminal_is_printable(tmp_path: Path) -> None:
    run = Run("--socket", tmp_path / "none", "--agent", b"\x1b[31m\n\xff", "ec2-user")
    run.each(1, b"", stderr_lines=1)
    for version, (_, _, errors) in run.done.items():
        assert all(32 <= byte < 127 for byte in errors[:-1]), (version, errors)


# -- asked as root -------------------------------------------------------------------------------

AS_ROOT = """
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
shift
exec "$@"
"""


@dataclass
class AsRoot:
    """Runs the client as root, on a machine with the agent's user, or without it."""

    directory: Path  # that every user may read

    def run(self, python: str, *options: str, user: str = "") -> subprocess.CompletedProcess[str]:
        for name, line in (
            ("passwd", user),
            ("group", "eic-agent:x:61001:\nmore:x:61002:eic-agent"),
        ):
            own = (Path("/etc") / name).read_text().splitlines()
            kept = [entry for entry in own if not entry.startswith("eic-agent:")]
            (self.directory / name).write_text("\n".join([*kept, line]) + "\n")
        client = [python, "-I", "-S", CLIENT, "--socket", "/nowhere"]
        argv = [*map(str, client), "--agent", str(self.directory / "agent"), *options, "ec2-user"]
        unshare = [program("unshare", "util-linux"), "--mount", "sh", "-euc", AS_ROOT, "sh"]
        done = subprocess.run(
            [*unshare, str(self.directory), *argv], capture_output=True, text=True, check=False
        )
        if "Operation not permitted" in done.stderr and "mount" in done.stderr:
            lacking("mount namespaces", "run the tests on a whole machine")
        return done


@pytest.fixture
def as_root() -> Iterator[AsRoot]:
    root()
    directory = Path(tempfile.mkdtemp(prefix="eic-agent-test-", dir="/run"))
    directory.chmod(0o755)
    agent = directory / "agent"
    agent.write_text(
        "#!/bin/sh\nid -u; id -g; id -G\n"
        "grep -E 'Uid|Gid|CapPrm|CapEff|CapAmb|NoNewPrivs' /proc/self/status\n"
    )
    agent.chmod(0o755)
    yield AsRoot(directory)
    shutil.rmtree(directory)


def test_asked_as_root_it_becomes_the_agents_user_for_good(as_root: AsRoot) -> None:
    """What is in metadata can be a stranger's, and is not read with every privilege there is."""
    user = "eic-agent:x:61000:61001::/nonexistent:/usr/sbin/nologin"
    for version, python in PYTHONS.items():
        done = as_root.run(python, user=user)
        assert done.returncode == 0, (version, done)
        uid, gid, groups, *lines = done.stdout.splitlines()
        assert (uid, gid, set(groups.split())) == ("61000", "61001", {"61001", "61002"}), version
        status = dict(line.split(":\t", 1) for line in lines)
        assert set(status["Uid"].split()) == {"61000"}, version
        assert set(status["Gid"].split()) == {"61001"}, version
        capabilities = {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")}
        assert (capabilities, status["NoNewPrivs"]) == ({0}, "1"), version


@pytest.mark.parametrize("user", ["", "eic-agent:x:0:0::/root:/bin/sh"])
def test_asked_as_root_without_the_agents_user_nothing_is_looked_up(
    as_root: AsRoot, user: str
) -> None:
    done = as_root.run(next(iter(PYTHONS.values())), user=user)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not made as root, but as the user eic-agent, which cannot be" in done.stderr


# -- the chained command -------------------------------------------------------------------------


def chain(*words: str | Path) -> list[str | Path]:
    return ["ec2-user", "SHA256:abc", "--chain", *words]


def sh(script: str, *words: str) -> list[str | Path]:
    return chain("/bin/sh", "-c", script, "sh", *words)


def test_chained_keys_follow_ours(agent: Start) -> None:
    Run("--socket", agent(answering()), *sh("echo theirs")).each(0, KEYS + b"theirs\n")


def test_the_chained_command_gets_its_arguments_untouched(agent: Start) -> None:
    words = ["--socket", "x y", "", "--chain", "-n", "*"]
    run = Run("--socket", agent(answering(b"")), *sh('for w; do echo "<$w>"; done', *words))
    run.each(0, "".join(f"<{word}>\n" for word in words).encode())


def test_the_chained_command_runs_beside_us(agent: Start, tmp_path: Path) -> None:
    """Each waits for the other, so neither order of one after the other would do."""
    asked, chained = tmp_path / "asked", tmp_path / "chained"

    def script(connection: socket.socket) -> None:
        connection.sendall(b"+")
        read_request(connection)
        asked.touch()
        while not chained.exists():
            time.sleep(0.01)
        connection.sendall(b"A" + len(KEYS).to_bytes(4, "big") + KEYS)

    program = f"while ! [ -e {asked} ]; do sleep 0.02; done; touch {chained}; echo theirs"
    Run("--socket", agent(script), *sh(program)).each(0, KEYS + b"theirs\n")


def test_a_chained_command_may_print_more_than_a_pipe_holds_while_we_wait(agent: Start) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(b"+")
        time.sleep(1)
        connection.sendall(b"A\0\0\0\0")

    program = "i=0; while [ $i -lt 200 ]; do printf '%01023d\\n' 7; i=$((i+1)); done; exit 0"
    run = Run("--socket", agent(script), *sh(program))
    run.each(0, (b"%01023d\n" % 7) * 200)


@pytest.mark.parametrize("program", ["echo theirs; exit 3", "echo theirs; kill -9 $$"])
def test_a_failing_chained_command_costs_none_of_our_keys(agent: Start, program: str) -> None:
    Run("--socket", agent(answering()), *sh(program)).each(0, KEYS)


def test_a_missing_chained_command_costs_none_of_our_keys(agent: Start, tmp_path: Path) -> None:
    run = Run("--socket", agent(answering()), *chain(tmp_path / "none"))
    run.each(0, KEYS, stderr_lines=1)


def test_a_hanging_chained_command_is_killed_with_its_group(agent: Start, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = f"sleep 1000 & echo $! >>{pids}; echo $$ >>{pids}; echo theirs; wait"
    Run("--socket", agent(answering()), *sh(program)).each(0, KEYS)
    assert len(pids.read_text().split()) == 2 * len(PYTHONS)
    assert_gone(pids)


def assert_gone(pids: Path) -> None:
    """Killed processes may wait as zombies for whoever inherited them."""
    waited_until = time.monotonic() + 20
    for pid in pids.read_text().split():
        while time.monotonic() < waited_until:
            try:
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    break
            except (FileNotFoundError, ProcessLookupError):
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"process {pid} is still there")


def test_a_grandchild_that_keeps_the_pipe_holds_nobody(agent: Start, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = f"sleep 1000 2>{os.devnull} & echo $! >>{pids}; echo theirs"
    try:
        Run("--socket", agent(answering()), *sh(program)).each(0, KEYS + b"theirs\n")
    finally:
        for pid in pids.read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def test_our_failure_costs_none_of_the_chained_keys(tmp_path: Path) -> None:
    nowhere = tmp_path / "none"
    run = Run("--socket", nowhere, "--agent", nowhere, *sh("echo theirs"))
    run.each(0, b"theirs\n", stderr_lines=1)


def test_our_hanging_costs_none_of_the_chained_keys(
    agent: Start, tmp_path: Path, hurried: Path
) -> None:
    pids = tmp_path / "pids"
    one_process = tmp_path / "eic-agent"
    one_process.write_text(f"#!/bin/sh\necho ours\necho $$ >>{pids}\nexec sleep 1000\n")
    one_process.chmod(0o755)
    path = agent(sending())
    run = Run("--socket", path, "--agent", one_process, *sh("echo theirs"), client=hurried)
    run.each(0, b"theirs\n")
    assert_gone(pids)


def test_both_failing_is_status_1(tmp_path: Path) -> None:
    nowhere = tmp_path / "none"
    Run("--socket", nowhere, "--agent", nowhere, *sh("exit 1")).each(1, b"", stderr_lines=1)


def test_undecided_beside_a_failing_chain_is_status_1(agent: Start) -> None:
    path = agent(answering(b"metadata-unavailable\n", b"U"))
    Run("--socket", path, *sh("exit 1")).each(1, b"", stderr_lines=1)


def test_the_fallback_works_beside_a_chained_command(tmp_path: Path, one_process: Path) -> None:
    run = Run("--socket", tmp_path / "none", "--agent", one_process, *sh("echo theirs"))
    for version, (status, out, errors) in run.done.items():
        assert (status, errors) == (0, b""), version
        *words, pids, theirs = out.decode().splitlines()
        assert words[:-1] == ["authorized-keys", "ec2-user", "SHA256:abc", "--deadline-s"], version
        # Our own lookup ends before the deadline, so that what it then says is heard.
        assert float(words[-1]) <= WITH_A_START_S - 0.2, version
        assert pids.split()[0] == str(os.getpid()), version
        assert theirs == "theirs", version


def test_lines_stay_whole_between_ours_and_theirs(agent: Start) -> None:
    Run("--socket", agent(answering(b"ours")), *sh("printf theirs")).each(0, b"ours\ntheirs\n")


def test_no_more_than_a_mebibyte_is_taken_and_whole_lines_of_it(agent: Start) -> None:
    line = "x" * 999
    program = f"i=0; while [ $i -lt 3000 ]; do echo {line}; i=$((i+1)); done"
    run = Run("--socket", agent(answering()), *sh(program))
    run.each(0, KEYS + f"{line}\n".encode() * 1048)


def test_ended_by_sshd_nothing_of_ours_runs_on(agent: Start, tmp_path: Path) -> None:
    for version, python in PYTHONS.items():
        pids = tmp_path / version
        words = sh(f"echo $$ >{pids}; exec sleep 1000")
        argv = [python, "-I", "-S", CLIENT, "--socket", agent(answering()), *words]
        client = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            waited_until = time.monotonic() + 20
            while not (pids.exists() and pids.read_text()):
                assert time.monotonic() < waited_until, version
                time.sleep(0.01)
            client.terminate()
            assert client.communicate(timeout=60) == (b"", b""), version
            assert client.returncode == 1, version
        finally:
            client.kill()
            client.communicate()
        assert_gone(pids)
