"""What every command is composed of: the configuration, and the authorizer that it makes."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eic_agent.configuration import config
from eic_agent.journal.writer import Journal
from eic_agent.lookup.authorizer import Authorizer, Counters, Rules
from eic_agent.lookup.identity import configured_partition
from eic_agent.lookup.memory import Memory
from eic_agent.lookup.users import UserDatabase
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import NEVER, Deadline


def load(path: Path | None) -> config.Loaded:
    """Read the configuration that the command line names, or the machine's; raises ConfigError."""
    if path is not None:
        return config.load(path, must_exist=True)
    return config.load(config.DEFAULT_PATH)


def build_authorizer(
    settings: config.Config,
    journal: Journal,
    workers: ThreadPoolExecutor,
    counters: Counters,
    users: UserDatabase,
    ends: Deadline = NEVER,
    memory: Memory | None = None,
) -> Authorizer:
    """Build what answers lookups under this configuration, on the clock of the machine."""
    metadata = MetadataClient(settings.imds.endpoint, settings.imds.timeout_s)
    deadline_s = settings.imds.deadline_s
    partitions = tuple(map(configured_partition, settings.identity.regions))
    rules = Rules(
        settings.policy,
        settings.trust,
        settings.identity.sysfs_root,
        deadline_s,
        partitions,
        record_required=settings.log.required,
    )
    return Authorizer(metadata, rules, journal, time.time, workers, counters, users, ends, memory)
