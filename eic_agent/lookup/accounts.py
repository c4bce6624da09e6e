"""What the user database says, asked by a process of its own: users.py starts it for each question.

A call of a name service that hangs cannot be ended; a process can. `SECONDS VERB NAME...` is
answered on stdout by how many fields there are, and the fields, each ended by a NUL. After the
seconds the kernel ends the process, whatever became of who started it. A login waits for it, so it
imports next to nothing.
"""

import _signal  # type: ignore[import-not-found] # signal itself would load enum and more
import grp
import posix
import pwd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NOT_FOUND = (KeyError, ValueError)  # ValueError: a NUL, or a surrogate that stands for no byte


def main(arguments: "list[str]") -> None:
    """Answer one question."""
    seconds, verb, *names = arguments
    _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
    _signal.setitimer(_signal.ITIMER_REAL, float(seconds))
    fields = list(VERBS[verb](names))
    fields.insert(0, str(len(fields)))
    answer = b"".join(field.encode("utf-8", "surrogateescape") + b"\0" for field in fields)
    while answer:
        answer = answer[posix.write(1, answer) :]


def account(names: "list[str]") -> "Iterator[str]":
    """Give a user's id, then id and name of each group, the primary one included."""
    try:
        entry = pwd.getpwnam(names[0])
    except _NOT_FOUND:
        return
    yield str(entry.pw_uid)
    for gid in dict.fromkeys(posix.getgrouplist(entry.pw_name, entry.pw_gid)):
        yield str(gid)
        try:
            yield grp.getgrgid(gid).gr_name
        except KeyError:
            yield ""


def users(names: "list[str]") -> "Iterator[str]":
    """Give the id of each user, nothing where there is no such user."""
    for name in names:
        try:
            yield str(pwd.getpwnam(name).pw_uid)
        except _NOT_FOUND:
            yield ""


def groups(names: "list[str]") -> "Iterator[str]":
    """Give the id of each group, nothing where there is no such group."""
    for name in names:
        try:
            yield str(grp.getgrnam(name).gr_gid)
        except _NOT_FOUND:
            yield ""


def everybody(_names: "list[str]") -> "Iterator[str]":
    """Give name and id of every user that can be listed; directories mostly list none."""
    for entry in pwd.getpwall():
        yield entry.pw_name
        yield str(entry.pw_uid)


VERBS = {"account": account, "users": users, "groups": groups, "everybody": everybody}
