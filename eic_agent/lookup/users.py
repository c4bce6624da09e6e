"""The system's user and group database."""

import grp
import os
import pwd


def exists(user: str) -> bool:
    """Say whether the system knows the user. Takes as long as the name service takes."""
    try:
        pwd.getpwnam(user)
    except (KeyError, ValueError):  # ValueError: a NUL, or a surrogate that stands for no byte
        return False
    return True


def group_names(user: str) -> frozenset[str]:
    """Names of all groups of a user, the primary one included; none for a user who does not exist.

    A group id without a name is left out. Takes as long as the name service takes.
    """
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):  # ValueError: a NUL, or a surrogate that stands for no byte
        return frozenset()
    gids = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return frozenset(name for gid in gids if (name := _group_name(gid)) is not None)


def user_id(user: str) -> int | None:
    """Give the numeric id of a user; None for one who does not exist."""
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        return None


def _group_name(gid: int) -> str | None:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None
