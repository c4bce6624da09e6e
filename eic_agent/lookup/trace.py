"""How a lookup tells what it found, step by step, to whoever wants to know (`explain`)."""

from typing import Protocol


class Trace(Protocol):
    """Is told what a step fetched, computed and compared."""

    def __call__(self, step: int, outcome: str, **facts: object) -> None:
        """Take one finding of a step; facts are what it rests on."""


def untraced(step: int, outcome: str, **facts: object) -> None:
    """Drop the finding: nobody asked for an explanation."""
