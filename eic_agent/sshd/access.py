"""Whether sshd would ask us for one user and let in whom our answer admits.

sshd is asked what holds for that user (`sshd -T -C`, so Match blocks count), and the user database
who that is. What sshd compares itself when somebody connects is compared here as it does it:
allowed_user() in OpenSSH's auth.c, in its order.
"""

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eic_agent.errors import UsersUnavailable
from eic_agent.lookup.users import exists
from eic_agent.sshd.asking import NotAccepted, Settings, asking
from eic_agent.sshd.launch import ProgramFailed, run
from eic_agent.sshd.plan import require_sshd
from eic_agent.sshd.status import Problem, require_sight
from eic_agent.sshd.survey import (
    COMMAND,
    USER,
    Refused,
    Survey,
    System,
    command_words,
    overrides,
    survey,
    unsafe,
)

# Of no network (RFC 5737), so that Match blocks about particular addresses do not fit.
ADDRESS = "192.0.2.1"
_GETENT, _ID = Path("/usr/bin/getent"), Path("/usr/bin/id")
_NOLOGIN = (Path("/run/nologin"), Path("/etc/nologin"))  # pam_nologin(8)
_NO_SHELLS = frozenset({"nologin", "false", "true"})
_DAY_S = 86400
_BY_ADDRESS = re.compile(r"\b(address|host|localaddress|localport|rdomain)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Account:
    """What the user database says of a user; None where that is for root only."""

    name: str
    uid: int
    shell: str
    groups: tuple[str, ...] = ()
    shadow: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """What sshd would do for a user; `problems` keep him out, `remarks` do not."""

    user: str
    name: str | None = None  # the user's name as the user database has it, which sshd goes by
    command: str | None = None
    command_user: str | None = None
    set_at: str | None = None
    not_seen: str | None = None  # what could not be looked at without root
    problems: tuple[Problem, ...] = ()
    remarks: tuple[Problem, ...] = field(default=())

    @property
    def asks(self) -> bool | None:
        """Whether sshd would ask us and let the user in by our answer; None where not seen."""
        if self.problems:
            return False
        return None if self.not_seen is not None else True

    def data(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {"asks": self.asks, **asdict(self)}


def find(system: System, user: str, now: float) -> Access:
    """Find out whether sshd would ask us for this user; changes nothing."""
    access = Access(user)
    try:
        require_sshd(system)
        require_sight(system)
        found = survey(system)
        for _ in found.tree().lines():
            pass  # every file that sshd reads, or PermissionError
        account = _account(user)
        with asking(found) as sshd:
            connection = f"user={account.name},host={ADDRESS},addr={ADDRESS}"
            connection += ",laddr=127.0.0.1,lport=22"
            settings = sshd.settings(found.tree(), connection)
    except Refused as error:
        return _with(access, Problem(error.what, error.remedy))
    except PermissionError as error:
        return Access(user, not_seen=f"{error.filename}: {error.strerror}")
    except (NotAccepted, OSError) as error:
        what = f"sshd does not accept its configuration: {error}"
        return _with(access, Problem(what, "Correct that"))
    command, command_user = settings.one(COMMAND), settings.one(USER)
    problems = [*_wiring(found, command, command_user), *_account_problems(account, settings, now)]
    return Access(
        user,
        account.name,
        command,
        command_user,
        found.set_at(found.tree()),
        problems=tuple(problems),
        remarks=tuple(_remarks(found, account, settings)),
    )


def _with(access: Access, problem: Problem) -> Access:
    return Access(access.user, problems=(problem,))


def _account(user: str) -> Account:
    """Ask the user database; raises Refused where it knows no such user."""
    unknown = Refused(
        f"the user database knows no user {user!r}, so that sshd asks nobody about keys",
        f"Make the user, or see with `getent passwd {user}` why a directory does not know it",
    )
    if not re.fullmatch(r"[^\s,:\0]+", user):  # neither sshd -C nor a user database takes it
        raise unknown
    try:
        fields = run([_GETENT, "passwd", "--", user]).rstrip("\n").split(":")
    except ProgramFailed:
        raise unknown from None
    if len(fields) != 7 or (user.isdigit() and fields[0] != user):  # an id is no name to sshd
        raise unknown
    name, uid = fields[0], int(fields[2])
    try:
        groups = tuple(filter(None, run([_ID, "-Gnz", "--", name]).split("\0")))
    except ProgramFailed:
        groups = ()
    shadow = None
    if os.geteuid() == 0:
        try:
            shadow = tuple(run([_GETENT, "shadow", "--", name]).rstrip("\n").split(":"))
        except ProgramFailed:
            shadow = ()
    return Account(name, uid, fields[6] or "/bin/sh", groups, shadow)


def _wiring(found: Survey, command: str | None, command_user: str | None) -> Iterator[Problem]:
    """Say why sshd would not come to run our client."""
    argv = command_words(command or "")
    client = found.system.paths.client
    if not found.system.asks_us(command):
        blocks = [line.where for line in overrides(found.tree()) if line.keyword == COMMAND]
        where = ", ".join(blocks) or found.set_at(found.tree())
        what = f"AuthorizedKeysCommand is {command or 'none'} for this user"
        what += f" ({where})" if where else ""
        yield Problem(what, "`eic-agent sshd status` says what sets it, `sshd enable` wires sshd")
        return
    for program in dict.fromkeys((Path(argv[0]), client)):
        why = unsafe(program)
        if why is not None:
            remedy = "Give it back to root alone (chown root:root, chmod go-w), or reinstall"
            yield Problem(f"sshd refuses to run {program}, since {why}", remedy)
            return
    if command_user is None:
        what = "AuthorizedKeysCommandUser is none, so that sshd does not run the command"
        yield Problem(what, "Run `eic-agent sshd enable`")
    elif "%" not in command_user:
        try:
            if not exists(command_user):
                what = f"AuthorizedKeysCommandUser {command_user} does not exist"
                yield Problem(what, "Run `systemd-sysusers`, or make that user")
        except UsersUnavailable as error:
            yield Problem(str(error), f"See with `id {command_user}` whether a service hangs")
    for launch in found.listeners:
        if found.waits_for_restart(launch):
            what = f"{launch.source} still runs with an AuthorizedKeysCommand of its own"
            yield Problem(what, "Restart sshd: sessions go on")


def _account_problems(account: Account, settings: Settings, now: float) -> Iterator[Problem]:
    """Say why sshd would not let this user in by a key, in the order in which it looks."""
    if settings.one("pubkeyauthentication") == "no":
        yield Problem(
            "PubkeyAuthentication is no, so that sshd asks nobody about keys",
            "Set PubkeyAuthentication yes",
        )
    methods = [words.split(",") for words in settings.words("authenticationmethods")]
    if methods and not any(
        {"any", "publickey"} & {m.partition(":")[0] for m in w} for w in methods
    ):
        shown = " ".join(settings.words("authenticationmethods"))
        yield Problem(
            f"AuthenticationMethods is {shown}, which has no publickey in it",
            "Add publickey to AuthenticationMethods",
        )
    root = settings.one("permitrootlogin")
    if account.uid == 0 and root in ("no", "forced-commands-only"):
        yield Problem(
            f"PermitRootLogin is {root}", "Log in as another user, or set prohibit-password"
        )
    yield from _shell(account.shell)
    yield from _lists(account, settings)
    yield from _shadow(account.shadow, settings, now)
    if settings.one("usepam") == "yes" and account.uid != 0:
        for path in _NOLOGIN:
            if path.exists():
                yield Problem(
                    f"{path} exists: only root may log in (the machine starts, or is going down)",
                    f"Wait, or remove {path}",
                )


def _shell(shell: str) -> Iterator[Problem]:
    remedy = "Give the user a shell (usermod --shell /bin/bash USER), or log in as another"
    if not os.access(shell, os.X_OK):
        yield Problem(f"the user's shell {shell} does not exist or cannot be run", remedy)
    elif Path(shell).name in _NO_SHELLS:
        yield Problem(f"the user's shell is {shell}, which ends the login at once", remedy)


def _lists(account: Account, settings: Settings) -> Iterator[Problem]:
    users = {key: settings.words(key) for key in ("denyusers", "allowusers")}
    groups = {key: settings.words(key) for key in ("denygroups", "allowgroups")}
    name = account.name
    if _among(name, users["denyusers"]):
        yield Problem(f"DenyUsers rules {name} out", "Take the user out of DenyUsers")
    named = [p.partition("@")[0] for p in users["allowusers"]]
    if named and not _among(name, named):
        yield Problem(f"AllowUsers does not name {name}", "Add the user to AllowUsers")
    if any(_among(group, groups["denygroups"]) for group in account.groups):
        yield Problem(f"DenyGroups rules a group of {name}'s out", "Take the group out of it")
    allowed = groups["allowgroups"]
    if allowed and not any(_among(group, allowed) for group in account.groups):
        yield Problem(
            f"AllowGroups names no group of {name}'s",
            f"Add the user to one of them: {', '.join(allowed)}",
        )


def _among(name: str, patterns: Sequence[str]) -> bool:
    """Compare as match_pattern() of OpenSSH does: * and ? only."""
    return any(fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns)


def _shadow(shadow: tuple[str, ...] | None, settings: Settings, now: float) -> Iterator[Problem]:
    if not shadow or len(shadow) < 8:
        return
    name, password, expires = shadow[0], shadow[1], shadow[7]
    if expires.isdigit() and 0 < int(expires) <= now // _DAY_S:
        yield Problem("the account has expired", f"chage --expiredate -1 {name}")
    if password.startswith("!") and settings.one("usepam") != "yes":
        yield Problem(
            "the account is locked, and with UsePAM no sshd lets no locked account in",
            f"usermod --password '*' {name} (no password, not locked), or set UsePAM yes",
        )


def _remarks(found: Survey, account: Account, settings: Settings) -> Iterator[Problem]:
    ways = [words.split(",") for words in settings.words("authenticationmethods")]
    if ways and not any(way in (["any"], ["publickey"]) for way in ways):
        shown = " ".join(settings.words("authenticationmethods"))
        yield Problem(
            f"AuthenticationMethods is {shown}: the key alone lets nobody in",
            "Nothing, where that is meant",
        )
    if any(
        "@" in pattern for key in ("allowusers", "denyusers") for pattern in settings.words(key)
    ):
        yield Problem(
            "AllowUsers or DenyUsers depend on where the user comes from, which was not compared",
            "See that they admit the addresses that users come from",
        )
    if any(_BY_ADDRESS.search(line.match or "") for line in found.tree().lines()):
        yield Problem(
            "Match blocks depend on where the user comes from, which was not compared",
            "Ask for an address with `sshd -T -C user=U,host=H,addr=A`",
        )
    if account.shadow is None:
        yield Problem("whether the account is expired or locked: not seen without root", "")
