"""Entries that journald did not take in time, kept in memory and written as soon as it does."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from eic_agent.journal.entries import Fields
from eic_agent.journal.outputs import Output

# How many are kept for one owner, who may be a stranger that asks again and again, and for all;
# an entry takes some 2 KiB.
MOST_OF_ONE = 256
MOST = 1024

_ONE_TRY_S = 1.0
_PAUSE_S = 0.2  # where there is no journald at all


@dataclass(slots=True)
class _Entry:
    fields: Fields
    owner: Hashable
    times: int = 1
    since: float = field(default_factory=time.monotonic)

    def late(self, times: int) -> Fields:
        """Give the fields, by how many seconds they are late, and for how many they stand."""
        marked = {**self.fields, "EIC_LATE": f"{time.monotonic() - self.since:.3f}"}
        if times > 1:
            marked["EIC_TIMES"] = str(times)
        return marked


class Kept:
    """What is still to be written, in the order it came; a thread writes while there is any."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry] = {}
        self._owners: Counter[Hashable] = Counter()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._tried_until = 0.0

    def __len__(self) -> int:
        """Give the number of entries that wait."""
        return len(self._entries)

    def add(self, key: Hashable, owner: Hashable, fields: Fields, most: int = MOST_OF_ONE) -> bool:
        """Keep an entry, or count it with the one of this key; False where the owner has too many.

        The entry of a key that is kept already stands for all of them, and says for how many.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                entry.times += 1
                return True
            if len(self._entries) >= MOST or self._owners[owner] >= most:
                return False
            self._entries[key] = _Entry(fields, owner)
            self._owners[owner] += 1
            if self._thread is None:
                thread = threading.Thread(target=self._write, name="journal", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the system gives none; the next one kept tries again
                    return True
                self._thread = thread
        return True

    def _write(self) -> None:
        while (found := self._next()) is not None:
            key, entry, times = found
            try:
                written = self._output.deliver(entry.late(times), _ONE_TRY_S)
            except OSError:
                written = False
                time.sleep(_PAUSE_S)
            if written:
                self._forget(key, entry, times)

    def _next(self) -> tuple[Hashable, _Entry, int] | None:
        with self._lock:
            over = self._closing and time.monotonic() >= self._tried_until
            if over or not self._entries:
                self._thread = None
                return None
            key, entry = next(iter(self._entries.items()))
            return key, entry, entry.times

    def _forget(self, key: Hashable, entry: _Entry, times: int) -> None:
        with self._lock:
            entry.times -= times
            if entry.times:  # it came again while it was written
                return
            del self._entries[key]
            self._owners[entry.owner] -= 1
            if not self._owners[entry.owner]:
                del self._owners[entry.owner]

    def close(self, within_s: float, otherwise: Callable[[Fields], object]) -> int:
        """Try for so long to write the rest, then give that to `otherwise`; return how many."""
        with self._lock:
            self._closing, self._tried_until = True, time.monotonic() + within_s
            thread = self._thread
        if thread is not None:
            thread.join(within_s + _ONE_TRY_S + _PAUSE_S)
        with self._lock:
            left = [entry.late(entry.times) for entry in self._entries.values()]
            self._entries.clear()
        for fields in left:
            otherwise(fields)
        return len(left)
