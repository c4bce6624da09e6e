"""A moment on the monotonic clock."""

from eic_agent.metadata.deadline import Deadline
from tests.metadata.service import PLENTY_S


class TestDeadline:
    def test_what_remains_shrinks_to_zero_and_not_below(self) -> None:
        assert 0 < Deadline.after(PLENTY_S).remaining() <= PLENTY_S
        assert Deadline.after(-1).remaining() == 0

    def test_the_earlier_of_two_wins(self) -> None:
        assert Deadline.after(PLENTY_S).at_most(1).remaining() <= 1
        soon = Deadline.after(1)
        assert soon.at_most(PLENTY_S) == soon
