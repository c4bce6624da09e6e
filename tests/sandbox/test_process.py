"""What runs while a context lasts."""

import contextlib
import subprocess
import sys

import pytest

from eic_sandbox.process import Running, announced, terminate

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]


class Sleeper(Running):
    """A process, and a second part of the start that may fail."""

    def __init__(self, *, fails: bool) -> None:
        self.fails = fails

    def _start(self, ends: contextlib.ExitStack) -> None:
        self.process = subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL)
        ends.callback(terminate, self.process)
        if self.fails:
            raise OSError("the second part does not start")


def test_it_runs_while_the_context_lasts() -> None:
    with Sleeper(fails=False) as sleeper:
        assert sleeper.process.poll() is None
    assert sleeper.process.poll() is not None


def test_a_start_that_fails_half_way_leaves_nothing_running() -> None:
    sleeper = Sleeper(fails=True)
    with pytest.raises(OSError, match="second part"), sleeper:
        pass
    assert sleeper.process.poll() is not None


def test_a_program_that_announces_itself_has_started_and_is_ended() -> None:
    with announced(SLEEP) as process:
        assert process.poll() is None
    assert process.poll() is not None
