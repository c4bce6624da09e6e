"""The sshd listeners that run: the options that they were started with beat every file."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from eic_agent.sshd.files import decode
from eic_agent.sshd.launch import Launch, launch_of

_FLAG = re.compile(r"-(?:[46DGQRTVdeiqrt]+|[CEbcfghkopu].*)")
_LISTENER = re.compile(r"sshd: (.*) \[listener\] \d+ of \d+-\d+ startups")
_DELETED = " (deleted)"  # by an upgrade; see proc_pid_exe(5)


def listeners(proc: Path, sshd: Path) -> tuple[Launch, ...]:
    """Return the running sshd listeners that see the same files as we do.

    sshd overwrites its command line with one title, words joined by spaces, so a value of -o is
    told from the next option by its looks only. Any user can give any title to a program of root's
    that he may start (passwd, su), so a title is believed of sshd itself, run by root or by us, and
    of what others run nothing is read: a command line may lie where reading it never ends.
    """
    found = []
    for folder in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            if folder.stat().st_uid not in (0, os.geteuid()) or not _runs(folder, sshd):
                continue
            title = decode((folder / "cmdline").read_bytes()).rstrip("\0 ")
        except OSError:
            continue  # ended meanwhile, or not ours to see
        match = _LISTENER.fullmatch(title)
        if match is not None and _same_root(folder):
            argv = _regroup(match[1].split(" ")[1:])
            found.append(launch_of(f"process {folder.name}", argv, int(folder.name)))
    return tuple(found)


def _runs(process: Path, program: Path) -> bool:
    executed = str((process / "exe").readlink()).removesuffix(_DELETED)
    return Path(executed) == program.resolve()


def _same_root(process: Path) -> bool:
    """Tell a process of this machine from one of a container, or of the host around our chroot."""
    try:
        return os.path.samestat((process / "root").stat(), Path("/").stat())
    except PermissionError:
        return True
    except OSError:
        return False


def _regroup(found: Sequence[str]) -> list[str]:
    """Put together again what stood in one argument behind -o."""
    argv: list[str] = []
    in_option = False
    for word in found:
        if _FLAG.fullmatch(word):
            argv.append(word)
            in_option = word.startswith("-o")
        elif in_option and argv[-1] != "-o":
            argv[-1] += f" {word}"
        else:
            argv.append(word)
    return argv
