"""The audit for people: one line a row, or where the terminal is narrow a few that fit it."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from eic_agent.journal.entries import escape

Data = Mapping[str, Any]

_RESULTS = {
    "other-login": "other login",
    "unused-push": "unused push",
    "unproved": "not proved",
}
_HEADINGS = ("TIME", "USER", "FROM", "LASTED", "RESULT", "PRINCIPAL", "REQUEST", "KEY")
# What a narrow terminal has in the first line; the others follow, indented.
_FIRST = 5


def cells(row: Data) -> tuple[str, ...]:
    """Give a row's cells, in the order of the headings, safe to print."""
    trail = row.get("cloudtrail")
    result = str(_RESULTS.get(row["kind"], row["kind"]))
    if row["kind"] in ("refused", "undecided"):
        result += f": {row['reason'] or 'without reason'}"
    if row["kind"] == "login" and trail is not None:
        result += ", no record" if trail["push"] is None else ""
        result += ", by tunnel" if trail["tunnel"] else ""
    principal: str = row.get("principal") or ""
    if row["kind"] == "other-login":
        how = row["certificate"] and f"certificate {row['certificate']}"
        principal = f"not through Instance Connect ({how or row['method']})"
    if trail is not None and trail["push"]:
        principal += f" from {trail['push']['source_ip']}"
    source: str = row.get("address") or ""
    if source and row.get("port"):
        source = f"[{source}]:{row['port']}" if ":" in source else f"{source}:{row['port']}"
    found = (
        _local(row["time"]),
        row.get("user") or "",
        source,
        _lasted(row),
        result,
        principal,
        row.get("request") or "",
        row.get("fingerprint") or "",
    )
    return tuple(escape(str(cell)) or "-" for cell in found)


def lines(rows: Callable[[], Iterable[Data]], width: int | None) -> Iterator[str]:
    """Give a heading and the rows, no line longer than `width` where there is one and it can be.

    `rows` is called twice, since columns are as wide as what is in them.
    """
    widths = [len(heading) for heading in _HEADINGS]
    empty = True
    for row in rows():
        empty = False
        widths = [max(w, len(cell)) for w, cell in zip(widths, cells(row), strict=True)]
    if empty:
        return
    full = width is None or sum(widths) + 2 * (len(widths) - 1) <= width
    shown = len(widths) if full else _FIRST
    yield _line(_HEADINGS[:shown], widths)
    for row in rows():
        found = cells(row)
        yield _line(found[:shown], widths)
        if not full:
            yield from _indented(found, width or 80)


def line(row: Data) -> str:
    """Give one row alone, as it comes."""
    return "  ".join(cells(row))


def _line(found: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(cell.ljust(w) for cell, w in zip(found, widths, strict=False)).rstrip()


def _indented(found: tuple[str, ...], width: int) -> Iterator[str]:
    text = ""
    for cell in (cell for cell in found[_FIRST:] if cell != "-"):
        if text and len(text) + 2 + len(cell) > width:
            yield text
            text = ""
        text = f"{text}  {cell}" if text else f"    {cell}"
    if text:
        yield text


def _local(utc: str) -> str:
    return f"{_local_minute(utc[:16])}{utc[16:19]}"


@functools.lru_cache(maxsize=4096)
def _local_minute(utc: str) -> str:
    """Give local date, hour and minute; time zones differ by whole minutes."""
    try:
        return f"{datetime.fromisoformat(f'{utc}+00:00').astimezone():%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return utc


def _lasted(row: Data) -> str:
    seconds = row.get("lasted_s")
    if seconds is None:
        return {"open": "open", "reboot": "until reboot", "unknown": "unknown"}.get(
            row.get("end") or "", ""
        )
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour:d}:{minute:02d}:{second:02d}"
