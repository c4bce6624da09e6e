"""Listeners that run are found by their title, which is believed of sshd alone."""

import os
from pathlib import Path

from eic_agent.sshd.launch import Launch
from eic_agent.sshd.listeners import listeners
from tests.support import root

SSHD = Path("/usr/sbin/sshd").resolve()


def process(proc: Path, pid: int, title: str, seen: str = "/", executed: str = str(SSHD)) -> Path:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "cmdline").write_bytes(title.encode() + b"\0\0")
    (folder / "root").symlink_to(seen)
    (folder / "exe").symlink_to(executed)
    return folder


def test_listeners_are_known_by_their_title(tmp_path: Path) -> None:
    process(tmp_path, 30, "sshd: /usr/sbin/sshd -D -f /etc/x [listener] 0 of 10-100 startups")
    process(tmp_path, 4, "sshd: /usr/sbin/sshd [listener] 3 of 10-100 startups")
    process(tmp_path, 5, "sshd: root@pts/0")
    process(tmp_path, 6, "/usr/sbin/sshd\0-i")
    (tmp_path / "7").mkdir()
    (tmp_path / "self").mkdir()
    assert listeners(tmp_path, SSHD) == (
        Launch("process 4", (), None, 4),
        Launch("process 30", (), "/etc/x", 30),
    )


def test_what_stood_behind_one_option_is_put_together_again(tmp_path: Path) -> None:
    title = (
        "sshd: /usr/sbin/sshd -D -o AuthorizedKeysCommand /usr/bin/x %u --y -oPort=1 -o Banner none"
        " -4 [listener] 0 of 10-100 startups"
    )
    process(tmp_path, 4, title)
    (found,) = listeners(tmp_path, SSHD)
    assert found.options == ("AuthorizedKeysCommand /usr/bin/x %u --y", "Port=1", "Banner none")


def test_a_containers_listener_is_not_ours(tmp_path: Path) -> None:
    process(tmp_path, 4, "sshd: /usr/sbin/sshd [listener] 0 of 10-100 startups", seen="/proc")
    process(tmp_path, 5, "sshd: /usr/sbin/sshd [listener] 0 of 10-100 startups", seen="/gone")
    assert listeners(tmp_path, SSHD) == ()


def test_another_users_process_is_not_believed(tmp_path: Path) -> None:
    root()
    folder = process(tmp_path, 4, "sshd: sshd [listener] 0 of 10-100 startups")
    os.chown(folder, 65534, -1)
    assert listeners(tmp_path, SSHD) == ()


def test_a_program_of_roots_with_a_title_of_somebodys_choice_is_no_listener(tmp_path: Path) -> None:
    """Such as a passwd that waits for its password, called as sshd by who started it."""
    title = "sshd: sshd -o AuthorizedKeysCommand=/x [listener] 0 of 10-100 startups"
    process(tmp_path, 4, title, executed="/usr/bin/passwd")
    assert listeners(tmp_path, SSHD) == ()


def test_an_sshd_whose_program_was_upgraded_is_still_one(tmp_path: Path) -> None:
    title = "sshd: sshd [listener] 0 of 10-100 startups"
    process(tmp_path, 4, title, executed=f"{SSHD} (deleted)")
    assert len(listeners(tmp_path, SSHD)) == 1


def test_what_others_run_is_not_read(tmp_path: Path) -> None:
    """Reading a command line waits for its memory, which its owner can make never to come."""
    root()
    folder = process(tmp_path, 4, "")
    (folder / "cmdline").unlink()
    os.mkfifo(folder / "cmdline")
    os.chown(folder, 65534, -1)
    assert listeners(tmp_path, SSHD) == ()
