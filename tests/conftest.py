"""How tests run: on machines of any speed, and those that share something costly in one process."""

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# How fast a machine is says nothing about what is tested.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# Directories whose tests share a build, a booted machine or a long wait.
_TOGETHER = ("clients", "packages", "machine")


class ByShare(LoadScopeScheduling):
    """Gives a worker whole files, and whole directories of those that share something costly."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, _ = nodeid.partition("::")
        directory = path.removeprefix("tests/").partition("/")[0]
        return directory if directory in _TOGETHER else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByShare:
    """Decide which tests run in one process, whatever --dist says.

    Marks for loadgroup would do, but they get lost: xdist 3.8 hands them on in an attribute that
    pytest 9.2 no longer reads.
    """
    return ByShare(config, log)
