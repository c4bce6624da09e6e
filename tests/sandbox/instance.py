"""One instance of the sandbox: its metadata service, and the files by which the agent knows it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.simulator import MetadataSimulator, PushedKey

KEY_LIFETIME_S = 60


class Instance:
    """An instance that keys can be pushed to; `state` is EC2's name for its state."""

    def __init__(self, metadata: MetadataSimulator) -> None:
        self.metadata = metadata
        # As on EC2 a key leaves the metadata when it expires.
        metadata.linger_s = 0.0
        self.state = "running"
        self.reachable = True
        self.metadata_url = ""
        self.config = Path()

    @property
    def id(self) -> str:
        """The instance id."""
        return self.metadata.instance_id

    def push(self, os_user: str, public_key: str, caller: str, request_id: str) -> PushedKey:
        """Put a key into the metadata for KEY_LIFETIME_S."""
        expires = int(self.metadata.now) + KEY_LIFETIME_S
        return self.metadata.push(
            os_user, public_key, caller=caller, request=request_id, expires=expires
        )

    @contextlib.contextmanager
    def serve_metadata(self, directory: Path) -> Iterator[None]:
        """Serve the metadata, and write the agent's configuration for it into the directory."""
        directory.mkdir(parents=True)
        with self.metadata.serve() as self.metadata_url:
            self.config = self.metadata.config(directory, self.metadata_url)
            yield
