"""Let the sshd and the agent that run take up what was written; nothing is ever restarted."""

from eic_agent.sshd.changes import Changes
from eic_agent.sshd.launch import ProgramFailed, Systemd, UnitState
from eic_agent.sshd.survey import UNITS, Survey, System

_AGENT_UNIT = "eic-agent.service"


def reload_sshd(found: Survey, changes: Changes) -> list[str]:
    """Let running listeners know; return what was done or is left to do. Raises ProgramFailed."""
    paths = found.system.paths
    if not any(map(changes.touched, (paths.drop_in, paths.former, found.main))):
        return []
    said = [
        _reload_unit(found.system.paths.systemd, state)
        for state in found.system.paths.systemd.states(*UNITS)
        if state.active in ("active", "reloading", "activating")
    ]
    said += [
        f"{one.source} is an sshd that systemd does not run: "
        f"`kill -HUP {one.pid}` makes it read its configuration"
        for one in found.listeners
        if one.pid not in found.main_pids
    ]
    return said


def _reload_unit(systemd: Systemd, state: UnitState) -> str:
    """Let sshd's unit read its configuration; return what was done, or is left to do.

    An sshd that has its sockets from systemd does not survive a reload on Debian, where it tries to
    bind them again. It is stopped: the socket goes on listening and starts it for the next
    connection, and sessions go on, where the unit says KillMode=process as every distribution's.
    """
    sockets = [
        socket for socket in systemd.states(*state.triggered_by) if socket.active == "active"
    ]
    if state.active == "activating":
        return f"{state.id} is just starting: `systemctl reload {state.id}` if it was too early"
    if not sockets:
        systemd.reload(state.id)
        return f"reloaded {state.id}"
    if state.kill_mode != "process":
        return (
            f"{state.id} has its sockets from {sockets[0].id} and KillMode={state.kill_mode}: "
            f"`systemctl stop {state.id}` makes it start anew, but may end sessions"
        )
    systemd.stop(state.id)
    return f"{sockets[0].id} starts {state.id} anew for the next connection"


def reload_agent(system: System, changes: Changes) -> list[str]:
    """Let a running agent know whom its socket answers now; return warnings."""
    if changes.touched(system.paths.snippet):
        systemd = system.paths.systemd
        try:
            for state in systemd.states(_AGENT_UNIT):
                if state.active == "active":
                    systemd.reload(state.id)
        except ProgramFailed as error:
            return [f"{_AGENT_UNIT} was not reloaded, and does not know whom to answer: {error}"]
    return []
