"""The wiring: make sshd ask eic-agent, and undo that without a trace.

It is one generated drop-in, which sorts before every other that is known to set
AuthorizedKeysCommand, since sshd keeps the first value of a keyword. Where sshd would not read it
first, and only when asked to, a delimited block at the top of the main file includes it.

1. Survey: how sshd is started, and what it says of its configuration without us.
2. Plan: a command in effect is chained with its own arguments, and its user is kept. AWS's own
   is replaced.
3. Trial: sshd is asked about a copy that holds the change. Nothing is written unless it then asks
   us, as planned.
4. Write: each file atomically, the drop-in last (first, when it goes), so that sshd's configuration
   changes in one moment. sshd is asked once more; whatever fails, every file is put back.
5. Reload the sshd that systemd runs. Nothing that listens is ever restarted.

Doing it twice is doing it once. Maintainer scripts call `enable(unless_disabled=True)` after every
installation and upgrade, and `disable(by_admin=False)` before a removal, not before an upgrade.
`disable` by an administrator leaves a mark (`SshdPaths.disabled`) which the first respects, and
which only `enable` or a purge removes. So does who deletes the drop-in: `SshdPaths.enabled`, which
comes and goes with it, is then alone.
"""

import contextlib
from dataclasses import dataclass

from eic_agent.sshd.asking import NotAccepted, Sshd, asking
from eic_agent.sshd.changes import Changes, content_of
from eic_agent.sshd.files import Tree
from eic_agent.sshd.launch import ProgramFailed
from eic_agent.sshd.lock import locked
from eic_agent.sshd.plan import Prepared, made_folder, prepare, require_sshd
from eic_agent.sshd.reload import reload_agent, reload_sshd
from eic_agent.sshd.status import printable
from eic_agent.sshd.survey import GENERATED, Refused, Survey, System, as_written, overrides, survey

_DISABLED = b"`eic-agent sshd disable` made this, and `eic-agent sshd enable` removes it.\n"
_ENABLED = b"""\
`eic-agent sshd enable` made this beside its file for sshd, and `eic-agent sshd disable` removes it.
Where that file is deleted by hand, this tells package upgrades not to make it again.
"""
_LOCK = "eic-agent-sshd.lock"
_FAILURES = (Refused, NotAccepted, ProgramFailed, OSError)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What enabling or disabling did; where not ok, nothing was changed."""

    ok: bool
    changed: bool
    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        """0, or 1 where sshd would not accept it."""
        return 0 if self.ok else 1


def enable(
    system: System,
    *,
    edit_main_file: bool = False,
    unless_disabled: bool = False,
    permit_environment: bool = False,
) -> Outcome:
    """Wire sshd; with `unless_disabled` not where an administrator disabled it."""
    why_disabled = system.why_disabled() if unless_disabled else None
    if why_disabled is not None:
        line = f"left alone until `eic-agent sshd enable`, since an administrator {why_disabled}"
        return Outcome(ok=True, changed=False, lines=(line,))
    try:
        require_sshd(system)
        with locked(system.paths.run / _LOCK):
            found = survey(system)
            with asking(found) as sshd:
                prepared = prepare(
                    found,
                    sshd,
                    edit_main_file=edit_main_file,
                    permit_environment=permit_environment,
                )
                outcome = _enable(found, sshd, prepared)
            system.paths.disabled.unlink(missing_ok=True)
            return outcome
    except _FAILURES as error:
        return Outcome(
            ok=False, changed=False, lines=(f"not enabled, nothing was changed: {error}",)
        )


def disable(system: System, *, by_admin: bool = True) -> Outcome:
    """Undo the wiring; `by_admin` leaves the mark that later installations respect.

    Works as well where sshd is not installed any more, or does not accept its configuration anyway.
    """
    try:
        with locked(system.paths.run / _LOCK):
            found = survey(system)
            return _disable(found, found.tree_without_us(), by_admin=by_admin)
    except _FAILURES as error:
        return Outcome(
            ok=False, changed=False, lines=(f"not disabled, nothing was changed: {error}",)
        )


def outcome_text(outcome: Outcome) -> str:
    """Give the outcome as lines for people."""
    return printable([*outcome.lines, *(f"warning: {warning}" for warning in outcome.warnings)])


def _enable(found: Survey, sshd: Sshd, prepared: Prepared) -> Outcome:
    plan = prepared.plan
    if plan is None:
        line = (
            f"sshd asks eic-agent already, by {prepared.set_at}, which eic-agent did not write: "
            "left alone"
        )
        return Outcome(ok=True, changed=False, lines=(line,))
    drop_in, former = found.system.paths.drop_in, found.system.paths.former
    overriding = [
        f"{line.where} sets {as_written(line)} within 'Match {line.match}', "
        "which counts for those whom it matches"
        for line in overrides(found.tree_without_us())
    ]
    changes = Changes()
    try:
        changes.put(found.system.paths.enabled, _ENABLED, 0o644)
        for path in sorted(prepared.files, key=lambda path: (path == former, path == drop_in)):
            changes.put(
                path, prepared.files[path], 0o644 if path == found.system.paths.snippet else 0o600
            )
        plan.require(sshd.effective(found.tree()))
        said = reload_sshd(found, changes)
    except BaseException:
        changes.undo()
        raise
    warnings = (*plan.warnings, *overriding, *reload_agent(found.system, changes))
    lines = (f"sshd asks eic-agent, by {drop_in}", *plan.remarks, *said)
    return Outcome(ok=True, changed=bool(changes), lines=lines, warnings=warnings)


def _disable(found: Survey, without: Tree, *, by_admin: bool) -> Outcome:
    paths = found.system.paths
    still_asks = _require_valid(found, without) if paths.sshd.exists() else None
    remove_folder = (found.wrote_drop_in or found.wrote_former) and made_folder(found)
    changes = Changes()
    try:
        if by_admin or found.system.why_disabled() is not None:
            changes.put(paths.disabled, _DISABLED, 0o644)
        changes.put(paths.enabled, None, 0o644)
        if found.wrote_drop_in:
            changes.put(paths.drop_in, None, 0o600)
        if found.wrote_former:
            changes.put(paths.former, None, 0o600)
        if found.wrote_block:
            changes.put(found.main, found.main_without_block(), 0o600)
        if (content_of(paths.snippet) or b"").startswith(GENERATED):
            changes.put(paths.snippet, None, 0o644)
    except BaseException:
        changes.undo()
        raise
    with contextlib.suppress(OSError):  # a package's own directory is not empty
        paths.enabled.parent.rmdir()
    if remove_folder:
        with contextlib.suppress(OSError):  # others use it by now
            paths.drop_in.parent.rmdir()
    warnings = reload_agent(found.system, changes)
    if any(map(changes.touched, (paths.drop_in, paths.former, found.main))):
        lines = ["sshd's configuration is as it was without eic-agent"]
    else:
        lines = ["sshd was not wired by eic-agent: nothing to undo"]
    try:
        lines += reload_sshd(found, changes)
    except ProgramFailed as error:
        warnings.append(f"sshd asks eic-agent until it is reloaded, which failed: {error}")
    if still_asks is not None:
        warnings.append(
            f"sshd still asks eic-agent, by {still_asks}, which eic-agent did not write"
        )
    if found.drop_in is not None and not found.wrote_drop_in:
        warnings.append(f"{paths.drop_in} was not written by eic-agent, and is left alone")
    return Outcome(ok=True, changed=bool(changes), lines=tuple(lines), warnings=tuple(warnings))


def _require_valid(found: Survey, without: Tree) -> str | None:
    """Refuse where our going spoils something; return what would ask us even then."""
    with asking(found) as sshd:
        try:
            after = sshd.effective(without)
        except NotAccepted as error:
            try:
                sshd.effective(found.tree())
            except NotAccepted:
                return None  # it is broken already, and not by us
            raise Refused(
                f"sshd would not accept its configuration without eic-agent, and says: {error}",
                "Correct that first, then try again",
            ) from error
    return found.set_at(without) if found.system.asks_us(after.command) else None
