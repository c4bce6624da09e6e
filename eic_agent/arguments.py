"""The command line: which commands there are, and what they take."""

import argparse
from pathlib import Path

from eic_agent import __version__, client
from eic_agent.configuration import config


def protect_user(argv: list[str]) -> list[str]:
    """Let a user name stand for itself, also where it looks like an option.

    `authorized-keys USER [FINGERPRINT] [--deadline-s S]` is called with what a stranger typed.
    """
    if "authorized-keys" not in argv:
        return argv
    at = argv.index("authorized-keys") + 1
    options, rest = argv[:at], argv[at:]
    if rest in (["-h"], ["--help"]) or (rest[:1] == ["--deadline-s"] and rest[2:3] == ["--"]):
        return argv
    if len(rest) > 2 and rest[-2] == "--deadline-s":
        options, rest = [*options, *rest[-2:]], rest[:-2]
    return [*options, "--", *rest]


def parser() -> argparse.ArgumentParser:
    """Give the parser of the command line; the command that is chosen is `command` of its result.

    Of commands with actions both are in it: `sshd status`.
    """
    parser = argparse.ArgumentParser(
        prog="eic-agent",
        description="The instance side of EC2 Instance Connect.",
        epilog="Manual pages: eic-agent(8), eic-agent.toml(5).",
    )
    parser.add_argument("--version", action="version", version=f"eic-agent {__version__}")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"configuration, with config.d/*.toml beside it (default: {config.DEFAULT_PATH})",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("authorized-keys", help="answer one lookup of sshd's")
    _question(command)
    command.add_argument("--deadline-s", type=float, metavar="S", help="seconds that are left")
    command.set_defaults(command="authorized-keys")

    command = commands.add_parser("serve", help="answer lookups on a socket until idle")
    command.add_argument(
        "--socket", type=Path, metavar="PATH", help="listen here (default: on systemd's socket)"
    )
    command.add_argument(
        "--standby", action="store_true", help="in the agent's stead: leave soon when idle"
    )
    command.set_defaults(command="serve")

    command = commands.add_parser("status", help="say whether the running agent is ready")
    command.add_argument("--socket", type=Path, metavar="PATH", default=Path(client.SOCKET))
    form = command.add_mutually_exclusive_group()
    form.add_argument("--counters", action="store_true", help="what it has counted")
    form.add_argument("--json", action="store_true", help="all of it as data")
    form.add_argument("--openmetrics", action="store_true", help="the counters for a scraper")
    command.set_defaults(command="status")

    command = commands.add_parser("explain", help="say whether a login would get in, and why not")
    _question(command)
    command.add_argument("--socket", type=Path, metavar="PATH", default=Path(client.SOCKET))
    form = command.add_mutually_exclusive_group()
    form.add_argument("--verbose", action="store_true", help="with all that the steps found")
    form.add_argument("--json", action="store_true", help="the same as data")
    command.set_defaults(command="explain")

    command = commands.add_parser("doctor", help="check everything, and say what to do")
    command.add_argument("--user", metavar="USER", help="also whether sshd lets this user in")
    command.add_argument("--socket", type=Path, metavar="PATH", default=Path(client.SOCKET))
    command.add_argument("--json", action="store_true", help="the same as data")
    command.set_defaults(command="doctor")

    command = commands.add_parser("audit", help="show who came in, by which IAM principal")
    command.add_argument("--since", metavar="TIME", help="as journalctl takes it: today, -2h, ...")
    command.add_argument("--until", metavar="TIME", help="likewise")
    command.add_argument("--user", metavar="USER", help="only logins of this OS user")
    command.add_argument(
        "--caller",
        metavar="PATTERN",
        help="only of principals that this shell pattern matches, or that contain this text",
    )
    command.add_argument(
        "--refused", action="store_true", help="also keys that did not become a login, and why"
    )
    command.add_argument(
        "--all", action="store_true", help="also logins not through Instance Connect"
    )
    command.add_argument(
        "--cloudtrail",
        type=Path,
        metavar="PATH",
        action="append",
        default=[],
        help="compare with CloudTrail's records in this file or directory",
    )
    command.add_argument(
        "--directory", type=Path, metavar="DIR", help="read the journal files there"
    )
    command.add_argument("--json", action="store_true", help="one JSON object a line")
    command.add_argument("--follow", action="store_true", help="wait for logins and show each")
    command.set_defaults(command="audit")

    command = commands.add_parser("whoami", help="show the IAM principal of this session")
    command.add_argument(
        "--session", type=int, metavar="PID", help="of the session that this process runs in"
    )
    command.add_argument("--json", action="store_true", help="the same as data")
    command.set_defaults(command="whoami")

    command = commands.add_parser("sshd", help="the wiring in sshd's configuration")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("status", help="say whom sshd asks, and what is in the way")
    action.add_argument("--json", action="store_true", help="the same as data")
    action.set_defaults(command="sshd status")
    action = actions.add_parser("enable", help="make sshd ask eic-agent")
    action.add_argument(
        "--edit-main-file",
        action="store_true",
        help="where sshd reads no drop-in first, include ours from a block in its main file",
    )
    action.add_argument(
        "--permit-environment",
        action="store_true",
        help="let sessions have the variables of keys.export_caller (PermitUserEnvironment EIC_*)",
    )
    action.add_argument(
        "--unless-disabled",
        action="store_true",
        help="not where an administrator disabled it (for package scripts)",
    )
    action.set_defaults(command="sshd enable")
    action = actions.add_parser("disable", help="undo that, byte for byte")
    action.add_argument(
        "--for-removal",
        action="store_true",
        help="without a mark for later installations (for package scripts)",
    )
    action.set_defaults(command="sshd disable")

    command = commands.add_parser("config", help="check or show the configuration")
    actions = command.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("check", help="say what is wrong with it, if anything is")
    action.add_argument("--user", metavar="USER", help="say whether this OS user may have keys")
    action.add_argument("--caller", metavar="ARN", help="and whether this principal may push them")
    action.set_defaults(command="config check")
    action = actions.add_parser("show", help="print the merged result")
    action.add_argument("--origin", action="store_true", help="say which file gave each value")
    action.set_defaults(command="config show")
    return parser


def _question(command: argparse.ArgumentParser) -> None:
    command.add_argument("user", metavar="USER", help="the OS user who logs in")
    command.add_argument(
        "fingerprint",
        nargs="?",
        metavar="FINGERPRINT",
        help="of the key that is offered, as sshd's %%f gives it (default: every key)",
    )
