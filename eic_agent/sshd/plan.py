"""Which wiring fits the configuration that sshd has without us, and whether sshd would accept it.

Nothing here writes outside a scratch directory. The plan depends on the configuration without us
alone: planning twice, or by another version, ends the same.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from eic_agent.errors import UsersUnavailable
from eic_agent.lookup.users import exists
from eic_agent.sshd.asking import Effective, NotAccepted, Sshd
from eic_agent.sshd.changes import content_of
from eic_agent.sshd.files import encode, quote
from eic_agent.sshd.survey import (
    BEGIN,
    COMMAND,
    END,
    GENERATED,
    USER,
    Refused,
    Survey,
    System,
    command_words,
    overrides_all,
    unsafe,
    why_not_first,
)

_AWS_SCRIPT = "eic_run_authorized_keys"
_MADE_FOLDER = b"# eic-agent made this directory too.\n"
_DROP_IN = """\
; what is changed here will be lost.
# To undo it: `eic-agent sshd disable`, or delete this file and reload sshd.
# It sorts before other drop-ins since sshd keeps the first value of a keyword.
# What stands behind --chain was in effect before; it runs beside eic-agent.
"""
_BLOCK = """\
# Added by `eic-agent sshd enable --edit-main-file`; `eic-agent sshd disable` takes it out again.
Include {drop_in}
"""
# For keys.export_caller. Users can set these variables too, which is why no other is admitted.
_PERMIT = "PermitUserEnvironment EIC_*\n"
_SNIPPET = """\
: sshd runs eic-agent's client as this user, whom the agent's socket must answer.
# To admit others as well, list all of them in a file that sorts after this one.
[agent]
clients = [{user}]
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """AuthorizedKeysCommand and its user as they shall be, and what to tell about them."""

    command: str
    user: str
    chained: tuple[str, ...]
    remarks: tuple[str, ...]
    warnings: tuple[str, ...]
    permits_environment: bool = False

    def require(self, found: Effective) -> None:
        """Raise Refused where sshd would do anything else."""
        if (found.command, found.user) != (self.command, self.user):
            raise Refused(
                f"sshd would still use AuthorizedKeysCommand {found.command or 'none'} "
                f"and AuthorizedKeysCommandUser {found.user or 'none'}",
                "`eic-agent sshd status` shows what sets them",
            )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan and its files, None for one that goes; no plan where sshd asks us anyway."""

    set_at: str  # where the AuthorizedKeysCommand that is in effect without us is set
    plan: Plan | None
    files: Mapping[Path, bytes | None]


def require_sshd(system: System) -> None:
    """Raise Refused where no sshd is installed."""
    if not system.paths.sshd.exists():
        raise Refused(
            f"{system.paths.sshd} does not exist", "Install the OpenSSH server, then try again"
        )


def prepare(
    found: Survey, sshd: Sshd, *, edit_main_file: bool, permit_environment: bool = False
) -> Prepared:
    """Find the wiring and try it on a copy; raises Refused.

    `permit_environment` lets sessions have the variables EIC_*; what was asked once stays so.
    """
    _require_ours(found)
    _require_no_option(found)
    without = found.tree_without_us()
    try:
        before = sshd.effective(without)
    except NotAccepted as error:
        raise Refused(
            f"sshd does not accept its configuration as it is without eic-agent, and says: {error}",
            "Correct that first, then try again",
        ) from error
    set_at = found.set_at(without) or str(found.main)
    if found.system.asks_us(before.command):
        return Prepared(set_at, None, {})
    plan = _plan(found, before, set_at)
    if permit_environment or encode(_PERMIT) in (found.drop_in or found.former or b""):
        plan = _permitting(plan, before)
    files = _try(found, sshd, plan, edit_main_file=edit_main_file)
    return Prepared(
        set_at, plan, {**files, found.system.paths.snippet: _snippet(found.system, plan.user)}
    )


def made_folder(found: Survey) -> bool:
    """Say whether the drop-in's directory is there, or will be, only because of it."""
    return not found.system.paths.drop_in.parent.exists() or _MADE_FOLDER in (
        found.drop_in or found.former or b""
    )


def concerns(found: Survey, effective: Effective) -> tuple[str, ...]:
    """Return what limits the wiring without being in its way."""
    running = [
        f"{launch.source} still runs with -o 'AuthorizedKeysCommand {launch.option(COMMAND)}', "
        "which its unit does not give any more: it asks eic-agent only after a restart "
        "(`systemctl restart` of ssh.service or sshd.service)"
        for launch in found.listeners
        if found.waits_for_restart(launch)
    ]
    keys = "PubkeyAuthentication is off, so that sshd asks nobody about keys"
    return (*running, *([] if effective.public_keys else [keys]))


def _require_ours(found: Survey) -> None:
    paths = found.system.paths
    if not paths.client.exists():
        raise Refused(
            f"{paths.client} does not exist", "Install eic-agent completely, then try again"
        )
    why_unsafe = unsafe(paths.client)
    if why_unsafe is not None:
        raise Refused(
            f"sshd would refuse to run {paths.client}, since {why_unsafe}",
            "It and every directory above it must be root's, and writable by nobody else",
        )
    for path, content in (
        (paths.drop_in, found.drop_in),
        (paths.snippet, content_of(paths.snippet)),
    ):
        if content is not None and not content.startswith(GENERATED):
            raise Refused(
                f"{path} was not written by eic-agent", "Move it to another name, then try again"
            )


def _require_no_option(found: Survey) -> None:
    for launch in found.launches:
        command = launch.option(COMMAND)
        if command is None or found.system.asks_us(command) or found.waits_for_restart(launch):
            continue
        if _AWS_SCRIPT in command:
            remedy = "Remove AWS's package ec2-instance-connect, which brings that option"
        elif launch.pid is None:
            remedy = (
                "Take the option out of the unit (`systemctl edit --full`) or its environment file"
            )
        else:
            remedy = "Start that sshd without the option"
        raise Refused(
            f"{launch.source} starts sshd with -o 'AuthorizedKeysCommand {command}', "
            "which beats every file, so that a drop-in cannot win",
            f"{remedy}, restart sshd, then run `eic-agent sshd enable` again",
        )


def _plan(found: Survey, before: Effective, set_at: str) -> Plan:
    system = found.system
    command = f"{system.paths.client} %u %f"
    user = (before.user if found.option(USER) is not None else None) or system.user
    chained: tuple[str, ...] = ()
    remarks: list[str] = []
    warnings: list[str] = []
    argv = command_words(before.command or "")
    kept = _without_aws(argv)
    if kept != argv:
        remarks.append(f"replaces AWS's {' '.join(argv[len(kept) :])} ({set_at})")
    if kept:
        if before.user is None:
            raise Refused(
                f"AuthorizedKeysCommandUser is none, so that sshd does not run {before.command} "
                f"({set_at})",
                "Give it the user that it shall run as, or delete both settings",
            )
        program = Path(kept[0])
        why_unsafe = unsafe(program, may_be_missing=True)
        if why_unsafe is not None:
            warnings.append(
                f"{before.command} ({set_at}) is not chained: sshd refuses to run it, since "
                f"{why_unsafe}. Correct that and run `eic-agent sshd enable` again to chain it"
            )
        else:
            chained = kept if len(kept) > 1 else (*kept, "%u")  # sshd's default
            user = before.user
            # sshd expands tokens in arguments, but took the program's name as it stood.
            words = (chained[0].replace("%", "%%"), *chained[1:])
            command += " --chain " + " ".join(map(quote, words))
            remarks.append(f"chains {' '.join(chained)} ({set_at}); both run as {user}")
            if not program.exists():
                warnings.append(f"{program}, which is chained, does not exist")
    if "%" in user:
        warnings.append(
            f"AuthorizedKeysCommandUser {user} runs the command as whoever logs in: the agent's "
            "socket does not answer them, so that each lookup takes a process of its own"
        )
    elif not _is_known(user):
        raise Refused(
            f"the user {user} does not exist, so that sshd would run no AuthorizedKeysCommand",
            "Run `systemd-sysusers`, which makes it where the package is installed"
            if user == system.user
            else f"Make that user, or delete the AuthorizedKeysCommand ({set_at}) that wants it",
        )
    return Plan(command, user, chained, tuple(remarks), (*warnings, *concerns(found, before)))


def _permitting(plan: Plan, before: Effective) -> Plan:
    """Let sshd take EIC_* from the agent's lines, unless an administrator has ruled about that."""
    if before.environment == "no":
        return replace(plan, permits_environment=True)
    if before.environment == "yes":
        return plan
    warning = (
        f"PermitUserEnvironment is {before.environment} already, and left so: EIC_CALLER reaches "
        "sessions only where that admits it"
    )
    return replace(plan, warnings=(*plan.warnings, warning))


def _is_known(user: str) -> bool:
    try:
        return exists(user)
    except UsersUnavailable as error:
        raise Refused(
            str(error), f"See with `id {user}` whether a service in /etc/nsswitch.conf hangs"
        ) from None


def _without_aws(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Cut off AWS's script with its arguments, where it stands first or is chained by another."""
    for at, word in enumerate(argv):
        if Path(word).name == _AWS_SCRIPT and (at == 0 or argv[at - 1] == "--chain"):
            return argv[: max(at - 1, 0)]
    return argv


def _drop_in(found: Survey, plan: Plan) -> bytes:
    settings = (
        f"AuthorizedKeysCommand {plan.command}\nAuthorizedKeysCommandUser {quote(plan.user)}\n"
    )
    settings += _PERMIT if plan.permits_environment else ""
    made = _MADE_FOLDER if made_folder(found) else b""
    return GENERATED + encode(_DROP_IN) + made + encode(settings)


def _snippet(system: System, user: str) -> bytes | None:
    if user in (system.user, "root") or "%" in user:
        return None
    return GENERATED + _SNIPPET.format(user=json.dumps(user)).encode()


def _try(
    found: Survey, sshd: Sshd, plan: Plan, *, edit_main_file: bool
) -> dict[Path, bytes | None]:
    """Return the files for sshd; raises Refused where they would not do as planned."""
    drop_in = found.system.paths.drop_in
    wiring: dict[Path, bytes | None] = {drop_in: _drop_in(found, plan)}
    if found.wrote_former:
        wiring[found.system.paths.former] = None
    objection = _objection(found, sshd, plan, wiring)
    if objection is None:
        return wiring
    block = BEGIN + encode(_BLOCK.format(drop_in=quote(str(drop_in)))) + END
    edited = {found.main: block + found.main_without_block(), **wiring}
    remaining = _objection(found, sshd, plan, edited)
    if remaining is not None:
        raise Refused(
            overrides_all(found.tree(wiring)) or remaining, "Change that setting, then try again"
        )
    if not edit_main_file and not found.wrote_block:  # what was permitted once stays so
        raise Refused(
            why_not_first(found.tree(wiring), drop_in) or objection,
            "`eic-agent sshd enable --edit-main-file` puts a block that reads it at the top of "
            f"{found.main}, and `eic-agent sshd disable` takes it out again",
        )
    return edited


def _objection(
    found: Survey, sshd: Sshd, plan: Plan, files: Mapping[Path, bytes | None]
) -> str | None:
    """Return what sshd has against the plan, or would do instead."""
    try:
        plan.require(sshd.effective(found.tree(files)))
    except NotAccepted as error:
        return f"sshd would not accept its configuration any more, and says: {error}"
    except Refused as error:
        return error.what
    return None
