"""The measures as Markdown."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.load import LoadReport, Vitals
from benchmarks.measures import CROWD, STARTED, Breakdown, Crowd, Lookups
from benchmarks.rounds import Contestant, Spread

_MIB = 1 << 20


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return [
        f"| {' | '.join(head)} |",
        f"|{'|'.join('---' for _ in head)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def ms(seconds: float) -> str:
    """Milliseconds, as exactly as makes sense."""
    value = seconds * 1000
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 1 else 2
    return f"{value:.{digits}f}"


def spread(values: Spread) -> str:
    """Median and quartiles in ms."""
    if math.isnan(values.median):
        return "no right answer"
    return f"{ms(values.median)} ({ms(values.low)}-{ms(values.high)})"


def mib(size: int) -> str:
    """MiB."""
    return f"{size / _MIB:.1f}"


def counted(numbers: Sequence[int]) -> str:
    """A number that was always the same, or from least to most."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}-{high}"


def failed(contestant: Contestant) -> str:
    """A note on runs that gave no right answer, if any; they are in no other figure."""
    runs = contestant.failures + len(contestant.costs)
    return f", {contestant.failures} of {runs} failed" if contestant.failures else ""


def lookups(found: Lookups) -> list[str]:
    """One lookup."""
    bare = found.bare.wall.median
    head = (
        "one lookup",
        "wall, ms: median (quartiles)",
        "times bare",
        "CPU, ms: process + agent",
        "metadata requests",
        "peak memory, MiB",
    )
    rows = [
        (
            c.name,
            spread(c.wall) + failed(c),
            f"{c.wall.median / bare:.2f}",
            ms(c.cpu_s) + (f" + {ms(statistics.median(c.agent_cpu_s))}" if c.agent else ""),
            counted(c.requests),
            mib(c.peak_bytes),
        )
        for c in found.all
    ]
    return table(head, rows)


def opened(counts: Mapping[str, int]) -> list[str]:
    """Files opened; a directory that is listed is one, too."""
    if not counts:
        return ["Without the files opened: there is no strace here.", ""]
    return table(("files opened", "number"), [(name, str(n)) for name, n in counts.items()])


def breakdown(found: Breakdown) -> list[str]:
    """Where the time goes."""
    steps = found.steps
    inside = found.warm - found.answered
    named = (
        ("— the metadata service answers", steps["round trip"]),
        ("— HTTP around that", steps["request"] - steps["round trip"]),
        ("— sharing requests among lookups", steps["keys fetched"] - steps["request"]),
        ("— blocks and keys parsed and checked", steps["blocks parsed"] + steps["checks"]),
        ("— signature verified", steps["signature"]),
        ("— policy, grant", steps["policy, grant"]),
    )
    rest = inside - sum(seconds for _, seconds in named)
    parts = (
        ("bare interpreter", found.bare),
        ("interpreter not torn down at the end", found.not_torn_down - found.bare),
        ("client read and compiled, `_socket` imported", found.compiled - found.not_torn_down),
        ("socket: a peer asked that answers at once", found.answered - found.compiled),
        ("agent", inside),
        *named,
        ("— the rest: waking up, threads, framing", rest),
        ("**warm lookup**", found.warm),
    )
    rows = [(name, ms(s), f"{s / found.bare:.3f}") for name, s in parts]
    return [
        *table(("part of a warm lookup", "ms", "times bare"), rows),
        f"The journal's entry takes {ms(steps['journal'])} ms more, after the answer has gone.",
        f"The simulated metadata service uses {ms(found.service_cpu_s)} ms of CPU for a request.",
        "",
    ]


def logins(found: Sequence[Contestant]) -> list[str]:
    """Whole logins."""
    least = found[0].wall.median
    head = ("one ssh login", "wall, ms: median (quartiles)", "more, ms", "metadata requests")
    rows = [
        (c.name, spread(c.wall) + failed(c), ms(c.wall.median - least), counted(c.requests))
        for c in found
    ]
    return table(head, rows)


def growth(found: dict[str, dict[int, Contestant]]) -> list[str]:
    """How it grows with the number of keys."""
    numbers = list(next(iter(found.values())))
    rows = [
        (name, *(spread(contestant.wall) + failed(contestant) for contestant in row.values()))
        for name, row in found.items()
    ]
    return table(("wall, ms, with so many keys", *map(str, numbers)), rows)


def crowds(found: Sequence[Crowd]) -> list[str]:
    """Many at once."""
    head = (
        f"{CROWD} lookups at once",
        "metadata latency, ms",
        "right answers",
        "median, s",
        "last, s",
        "metadata requests",
        "for that user at once, at most",
    )
    rows = [
        (
            c.name,
            f"{c.latency_s * 1000:.0f}",
            str(c.right),
            f"{c.median_s:.2f}",
            f"{c.last_s:.2f}",
            str(c.requests),
            str(c.most_at_once),
        )
        for c in found
    ]
    return table(head, rows)


def minute(report: LoadReport, before: Vitals, after: Vitals) -> list[str]:
    """The load and what the agent holds meanwhile."""
    latencies = statistics.quantiles(report.latencies_s, n=100)
    quarter = max(report.vitals[-1][0] // 4, 1)
    head = ("lookups so far", "RssAnon, MiB", "peak RSS, MiB", "file descriptors", "threads")
    seen: dict[int, tuple[int, Vitals]] = {}
    for lookups, vitals in report.vitals:
        seen[lookups // quarter] = (lookups, vitals)
    moments = [("before", before), *((str(n), v) for n, v in seen.values()), ("at rest", after)]
    rows = [
        (when, mib(v.rss_anon), mib(v.peak), str(v.descriptors), str(v.threads))
        for when, v in moments
    ]
    return [
        f"{len(report.lookups)} lookups from 20 clients with {report.pushes} pushes beside them,",
        "metadata's answers 20 ms old when they come:",
        f"{len(report.wrong)} wrong answers, {len(report.undecided)} undecided,",
        f"{report.keys_granted} keys granted; latency {ms(latencies[49])} ms in the median,",
        f"{ms(latencies[98])} ms at the 99th percentile.",
        "",
        *table(head, rows),
    ]


def goals(
    found: Lookups,
    files: Mapping[str, int],
    logins: Sequence[Contestant],
    crowd: Sequence[Crowd],
    load: LoadReport,
    rest: Vitals,
    after: Vitals,
) -> list[str]:
    """What was to be reached, and what was; `rest` is before the first lookup of all."""
    bare, warm, cold = (c.wall.median for c in (found.bare, found.warm, found.cold))
    from_file, login = logins[:2]
    rows = [
        ("warm lookup, times bare interpreter", "at most 1.2", f"{warm / bare:.2f}"),
        ("cold lookup, times bare interpreter", "at most 14", f"{cold / bare:.2f}"),
        (
            "one process, times bare interpreter",
            "at most 15",
            f"{found.one_process.wall.median / bare:.2f}",
        ),
        ("files opened by a cold agent", "at most 200", str(files.get(STARTED, "not counted"))),
        (
            "login, warm, times one with a key from a file",
            "at most 1.10",
            f"{login.wall.median / from_file.wall.median:.2f}",
        ),
        ("metadata requests: warm lookup", "1", counted(found.warm.requests)),
        ("— cold lookup", "7 and the staples, here 2", counted(found.cold.requests)),
        (
            "— cold, user without keys, and the signer proved after the answer",
            "3 and the same again",
            counted(found.cold_none.requests),
        ),
        ("— login, warm", "2", counted(login.requests)),
        (
            f"last of {CROWD} lookups at once, metadata latency 50 ms, s",
            "at most 3",
            " / ".join(f"{c.last_s:.2f}" for c in crowd if c.latency_s),
        ),
        ("agent's RssAnon at rest, MiB", "at most 18", mib(rest.rss_anon)),
        ("— after the load", "at most 24", mib(after.rss_anon)),
        ("wrong answers under load", "0", str(len(load.wrong) + len(load.undecided))),
    ]
    if found.go_peer is not None:
        ratio = found.go_peer.wall.median / warm
        rows.insert(1, ("native peer (Go), times warm lookup", "at least 1.5", f"{ratio:.2f}"))
    if found.reference is not None:
        reference = found.reference.wall.median
        rows[1:1] = [
            ("shell reference, times warm lookup", "at least 40", f"{reference / warm:.0f}"),
            ("cold lookup, times shell reference", "below 0.5", f"{cold / reference:.2f}"),
        ]
    return table(("goal", "wanted", "measured"), rows)
