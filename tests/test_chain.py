"""`--chain`: the command that was there before us keeps what sshd gave it, and gets no more."""

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import eic_agent.client
from eic_agent.client_chain import Unsafe, checked, resolved
from eic_agent.sshd.survey import unsafe
from tests.support import not_as_root, program, root

CLIENT = eic_agent.client.__file__
PYTHON = "/usr/bin/python3"
THEIRS = ["/bin/echo", "theirs"]
# sshd makes these calls too before it runs a command, and refuses it where they fail.
CHECKING = {"readlink", "stat", "lstat", "newfstatat"}
# What no policy forbids: memory, and the end of a signal's handler, which asks for nothing.
FREE = {"brk", "mmap", "mremap", "munmap", "mprotect", "madvise", "rt_sigreturn"}


def traced(injected: str, log: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run with a system call failing in every process: `setpgid:error=EPERM:when=1`."""
    strace = [program("strace", "strace"), "-f", "-o", str(log)]
    if injected:
        strace += ["-e", f"inject={injected}"]
    argv = (*not_as_root(), *strace, *argv)
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "agent"
    path.write_text("#!/bin/sh\necho ours\n")
    path.chmod(0o755)
    return path


def calls_beyond_a_plain_one(log: Path) -> Iterator[str]:
    """How to inject each system call between reading our code and executing a program."""
    counts: dict[str, Counter[str]] = {}
    reading, begun, parent, executed = False, False, "", set()
    for line in log.read_text().splitlines():
        found = re.match(r"(\d+) +(\w+)\(", line)
        if found is None:
            continue
        process, call = found[1], found[2]
        parent = parent or process
        count = counts.setdefault(process, Counter())
        count[call] += 1
        if call in FREE:
            continue
        if begun and call == "execve":
            executed.add(process)
        elif begun and process not in executed:
            yield f"{call}:error=EPERM"
            if process == parent:
                yield f"{call}:error=EPERM:when={count[call]}"
        reading = reading or "client_chain.py" in line
        begun = begun or (reading and call == "close")


def test_whatever_we_may_not_do_the_chained_keys_come(tmp_path: Path, agent: Path) -> None:
    """Every system call beyond a plain lookup's fails, alone and each time.

    That is not for those without which a lookup without a chained command, or that command without
    us, would not work either.
    """
    alone = [PYTHON, "-I", "-S", CLIENT, "--socket", "/nowhere", "--agent", str(agent), "nobody"]
    whole = traced("", tmp_path / "whole", *alone, "--chain", *THEIRS)
    assert whole.stdout == "ours\ntheirs\n", whole.stderr
    injections = sorted(set(calls_beyond_a_plain_one(tmp_path / "whole")))
    assert {"clone:error=EPERM", "pipe2:error=EPERM", "setsid:error=EPERM"} <= set(injections)

    def lost(injection: str) -> str | None:
        log = tmp_path / injection
        done = traced(injection, log, *alone, "--chain", *THEIRS)
        if "theirs\n" in done.stdout and done.returncode == 0:
            return None
        if injection.partition(":")[0] in CHECKING and "the chained command" in done.stderr:
            return None
        if traced(injection, log, *alone).stdout != "ours\n":
            return None
        if traced(injection, log, *THEIRS).stdout != "theirs\n":
            return None
        return f"{injection}: {done}"

    with ThreadPoolExecutor(4) as runners:
        costly = [said for said in runners.map(lost, injections) if said]
    assert not costly, "\n".join(costly)


def test_a_hanging_command_that_we_may_not_kill_is_ended_by_the_kernel(
    tmp_path: Path, agent: Path
) -> None:
    """The targeted policy lets sshd's commands send SIGTERM at most; nothing waits for them."""
    pid = tmp_path / "pid"
    script = f"trap '' TERM; echo $$ >{pid}; exec sleep 1000"
    argv = [PYTHON, "-I", "-S", CLIENT, "--socket", "/nowhere", "--agent", str(agent), "nobody"]
    argv += ["--chain", "/bin/sh", "-c", script]
    # strace itself stays until the last process has ended.
    done = traced("kill:error=EPERM", tmp_path / "log", *argv)
    assert (done.returncode, done.stdout) == (0, "ours\n")
    assert re.search(
        rf"^{pid.read_text().strip()} .*killed by SIGALRM",
        (tmp_path / "log").read_text(),
        re.MULTILINE,
    )


# -- sshd's own check ----------------------------------------------------------------------------


def why_refused(path: Path) -> str | None:
    """Say why the client would not run a program, in the words of `sshd enable`."""
    try:
        executed = checked(str(path))
    except Unsafe as error:
        return str(error)
    except OSError as error:
        return f"{path}: {error.strerror}"
    assert executed == os.path.realpath(path)
    return None


def both_say(path: Path) -> str | None:
    """Why the program is not run, about which client and `sshd enable` must agree."""
    said = why_refused(path)
    assert unsafe(path) == said
    return said


def test_what_sshd_would_refuse_to_run_is_refused_by_the_same_rule(tmp_path: Path) -> None:
    """The directories above are pytest's, so only the first reason counts."""
    script = tmp_path / "script"
    assert both_say(script) == f"{script}: No such file or directory"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert both_say(tmp_path / "loop") == f"{tmp_path}/loop: Too many levels of symbolic links"
    script.mkdir()
    assert both_say(script) == f"{script} is not a regular file"
    script.rmdir()
    os.mkfifo(script)
    assert both_say(script) == f"{script} is not a regular file"
    script.unlink()
    script.touch(0o755)
    if os.geteuid() == 0:
        script.chmod(0o775)
        assert both_say(script) == f"{script} can be written by others than its owner"
        script.chmod(0o755)
        os.chown(script, 1234, 0)
    assert both_say(script) == f"{script} is not owned by root"
    (tmp_path / "link").symlink_to("script")
    assert both_say(tmp_path / "link") == f"{script} is not owned by root"


def test_a_directory_that_others_can_write_spoils_what_is_in_it(tmp_path: Path) -> None:
    root()
    (tmp_path / "open/inner").mkdir(parents=True)
    (tmp_path / "open").chmod(0o1777)
    (tmp_path / "open/inner/script").touch(0o755)
    expected = f"{tmp_path}/open can be written by others than its owner"
    assert both_say(tmp_path / "open/inner/script") == expected


def test_a_program_of_root_alone_is_run_by_its_resolved_path(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/bin/../bin/.//env")
    assert both_say(Path("/usr/bin/env")) is None
    assert both_say(tmp_path / "link") is None
    with pytest.raises(Unsafe, match="not absolute"):
        checked("env")


@pytest.mark.parametrize("path", ["/", "/usr/../..", "//bin//.", "/bin/env", "/proc/self/exe"])
def test_links_are_followed_as_the_kernel_does(path: str) -> None:
    assert resolved(path) == os.path.realpath(path)
