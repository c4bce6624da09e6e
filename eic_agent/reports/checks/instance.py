"""What the agent's user sees: configuration, hardware, metadata, signer and clock.

It runs in a process of its own that has become that user: files that root reads and the agent does
not would be found by nobody else.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from eic_agent.configuration.config import Loaded
from eic_agent.errors import ConfigError, MetadataUnavailable, Reason, UntrustedMaterial
from eic_agent.lookup.authorizer import Authorizer
from eic_agent.lookup.identity import read_hardware
from eic_agent.lookup.users import UserDatabase
from eic_agent.metadata.deadline import Deadline
from eic_agent.reports import config_check, reach
from eic_agent.reports.checks.check import Finding, error, ok, warning
from eic_agent.reports.reasons import REASONS

_LIFE_S = 60.0  # of a pushed key
_TELL_S = 2.0  # a clock that is off by less is told of nobody


def look(
    load: Callable[[], Loaded],
    build: Callable[[Loaded], Authorizer],
    unit: Mapping[str, str],
    read_at: float | None,
) -> Iterator[tuple[str, Finding]]:
    """Give findings with the title of their check.

    `unit` is what `reach.unit_properties` told; `read_at` is when the running agent read its
    files, in seconds since the epoch.
    """
    found = config_check.check(load, UserDatabase(), unit=unit)
    if not found.ok:
        remedy = REASONS[Reason.INVALID_CONFIG].remedy
        yield from (("configuration", error(problem, remedy)) for problem in found.problems)
        return
    loaded = load()
    blocked = reach.remarks(loaded.config.imds.endpoint, unit)
    for problem in found.problems:
        if problem not in blocked:
            yield "configuration", warning(problem, "Change it, or leave it where it is meant")
    changed = [] if read_at is None else _changed(loaded.files, read_at)
    if changed:
        names = ", ".join(changed)
        what = f"changed after the running agent read it: {names}"
        yield "configuration", error(what, "systemctl reload eic-agent")
    else:
        yield "configuration", ok(found.results[0])
    for problem in blocked:
        yield "metadata", error(problem.partition(": run ")[0], problem.partition(": ")[2])
    yield from _instance(loaded, build(loaded))


def _changed(files: tuple[Path, ...], read_at: float) -> list[str]:
    return [str(path) for path in files if path.stat().st_mtime > read_at]


def _instance(loaded: Loaded, authorizer: Authorizer) -> Iterator[tuple[str, Finding]]:
    settings = loaded.config
    if read_hardware(settings.identity.sysfs_root) is None:
        explained = REASONS[Reason.NOT_EC2]
        yield "hardware", error(explained.meaning, explained.remedy)
        return
    yield "hardware", ok("an EC2 instance's")
    deadline = Deadline.after(settings.imds.deadline_s)
    try:
        instance = authorizer.metadata.instance_id(deadline)
    except MetadataUnavailable as problem:
        yield "metadata", error(str(problem), _what_to_do(str(problem)))
        return
    yield "metadata", ok(f"answers, for {instance}")
    yield "clock", _clock(authorizer.metadata.clock_offset_s, settings.policy.keys.clock_skew_s)
    try:
        holds_s = authorizer.prepare(deadline)
    except UntrustedMaterial as problem:
        yield "signer", error(str(problem), REASONS[problem.reason].remedy)
    except MetadataUnavailable as problem:
        yield "signer", error(str(problem), _what_to_do(str(problem)))
    except ConfigError as problem:
        yield "signer", error(str(problem), REASONS[Reason.INVALID_CONFIG].remedy)
    else:
        yield "signer", ok(f"proved, to be proved again in {holds_s:.0f} s")


def _what_to_do(problem: str) -> str:
    if "answered 403" in problem:
        return (
            "Metadata is disabled for the instance: aws ec2 modify-instance-metadata-options "
            "--http-endpoint enabled"
        )
    if "answered 401" in problem:
        return "Something on the way changes requests: look for a proxy of metadata's"
    if "answered 429" in problem or "answered 503" in problem:
        return "Something on this instance asks metadata too often: find it, it is throttled"
    return REASONS[Reason.METADATA_UNAVAILABLE].remedy


def _clock(offset_s: float | None, skew_s: float) -> Finding:
    remedy = "Set the clock: `timedatectl set-ntp true`, or chrony with 169.254.169.123"
    if offset_s is None:
        return warning("metadata's answers have no date to compare with", remedy)
    way = "ahead of" if offset_s > 0 else "behind"
    what = f"this machine's clock is {abs(offset_s):.0f} s {way} metadata's"
    if abs(offset_s) <= _TELL_S:
        return ok("as metadata's")
    # Ahead by half of a pushed key's life, or behind by more than is allowed: no key holds.
    return (error if offset_s > _LIFE_S / 2 or -offset_s > skew_s else warning)(what, remedy)
