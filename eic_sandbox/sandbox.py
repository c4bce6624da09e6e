"""The sandbox as a whole: the APIs, the tunnel, and instances with their metadata and sshd."""

import contextlib
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from eic_sandbox import cloudtrail, iam
from eic_sandbox.api import InstanceConnectApi
from eic_sandbox.certificates import CA_BUNDLE, server_tls
from eic_sandbox.cloudtrail import Trail
from eic_sandbox.ec2 import DescribeApi
from eic_sandbox.frontend import Frontend
from eic_sandbox.guest import JOURNAL, USER, guest
from eic_sandbox.instance import Endpoint, Instance
from eic_sandbox.network import attach, machine, network, obstacle
from eic_sandbox.programs import SandboxError
from eic_sandbox.simulator import MetadataSimulator
from eic_sandbox.simulator.faults import Wait
from eic_sandbox.simulator.server import Request, Server
from eic_sandbox.sshd import Sshd
from eic_sandbox.throttle import Throttle
from eic_sandbox.tunnel import TunnelEndpoint

REGION = "us-east-1"
ZONES = "abcdef"
MOST_INSTANCES = 16
# Credentials in the form of AWS's, for this sandbox only; the first of iam.json.
PRINCIPAL = iam.load(iam.DEFAULT_FILE)[0]


@dataclass(frozen=True)
class Options:
    """What a sandbox is made of.

    `principals` is IAM's file (see `iam`), `trail` where the log goes (None: into the sandbox's
    directory). `tunnel_port` 0 takes a free one; version 2 of the AWS CLI knows only 443.
    `machines` gives every instance a machine of its own, None where that is possible here.
    `resident` starts the agent with each; without, every lookup is a process of its own.
    `settings` are lines of sshd_config that win over the sandbox's own.
    """

    instances: int = 1
    principals: Path = iam.DEFAULT_FILE
    trail: Path | None = None
    tunnel_port: int = 0
    calls_per_s: float = 20.0
    machines: bool | None = False
    resident: bool = False
    settings: str = ""


class Sandbox:
    """Everything that runs, and how clients reach it."""

    def __init__(
        self,
        instances: list[Instance],
        hosts: list[Sshd],
        principals: tuple[iam.Principal, ...],
        endpoint: Endpoint,
        trail: Trail,
        api_url: str,
        directory: Path,
    ) -> None:
        self.instances = instances
        self.hosts = hosts
        self.principals = principals
        self.endpoint = endpoint
        self.trail = trail
        self.api_url = api_url
        self.directory = directory

    @property
    def instance(self) -> Instance:
        """The first instance, which the exports are about."""
        return self.instances[0]

    @property
    def host(self) -> Sshd:
        """The first instance's sshd."""
        return self.hosts[0]

    def journal_of(self, instance: Instance) -> Path:
        """Where the decisions of an instance's agent are written, if not to this machine's journal.

        The journal of its own machine, one JSON a line; without one the agent's standard error.
        """
        host = self.hosts[self.instances.index(instance)]
        journal = host.directory.parent / JOURNAL
        return journal if journal.exists() else host.agent_log

    def environment(self, principal: int = 0) -> dict[str, str]:
        """What clients need in their environment, to call as one of the principals."""
        who = self.principals[principal]
        exports = {
            "AWS_ENDPOINT_URL": self.api_url,
            "AWS_REGION": REGION,
            # Version 1 of the AWS CLI, which is the one on PyPI, reads only this.
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": who.access_key_id,
            "AWS_SECRET_ACCESS_KEY": who.secret_access_key,
            "AWS_CA_BUNDLE": str(self.directory / CA_BUNDLE),
            "EIC_SANDBOX_INSTANCE": self.instance.id,
            "EIC_SANDBOX_HOST": self.instance.public_ip,
            "EIC_SANDBOX_PORT": str(self.instance.ssh_port),
            "EIC_SANDBOX_USER": self.host.user,
            "EIC_SANDBOX_METADATA": self.instance.metadata_url,
            "EIC_SANDBOX_ENDPOINT": self.endpoint.id,
            "EIC_SANDBOX_ENDPOINT_DNS": self.endpoint.dns_name,
        }
        for number, instance in enumerate(self.instances[1:], 2):
            exports[f"EIC_SANDBOX_INSTANCE_{number}"] = instance.id
            exports[f"EIC_SANDBOX_PORT_{number}"] = str(instance.ssh_port)
            exports[f"EIC_SANDBOX_METADATA_{number}"] = instance.metadata_url
        if who.session_token is not None:
            exports["AWS_SESSION_TOKEN"] = who.session_token
        return exports


@contextlib.contextmanager
def running_sandbox(directory: Path, options: Options | None = None) -> Iterator[Sandbox]:
    """Run a sandbox with its files below the directory, which is left for the caller to remove."""
    options = options or Options()
    # sshd may run the agent as another user.
    directory.chmod(0o755)
    try:
        principals = iam.load(options.principals)
    except iam.PolicyError as error:
        raise SandboxError(str(error)) from error
    by_key = {principal.access_key_id: principal for principal in principals}
    instances = [_instance(number) for number in range(options.instances)]
    by_id = {instance.id: instance for instance in instances}
    trail = Trail(options.trail or directory / cloudtrail.FILE)
    endpoint = Endpoint("", REGION)
    tls = server_tls(directory, time.time())
    frontend = Frontend(
        by_key,
        InstanceConnectApi(by_id),
        DescribeApi(by_id, endpoint),
        trail,
        Throttle(options.calls_per_s, int(options.calls_per_s), time.monotonic),
        REGION,
    )

    def handle(request: Request, wait: Wait) -> Generator[bytes, None, None]:
        return frontend.handle(request, wait, time.time())

    with contextlib.ExitStack() as stack:
        hosts = list(_hosts(stack, directory, instances, options))
        server = stack.enter_context(contextlib.closing(Server(handle)))
        stack.enter_context(
            TunnelEndpoint(endpoint, by_id, by_key, trail, tls, port=options.tunnel_port)
        )
        _write_ssh_files(directory, instances, hosts)
        yield Sandbox(instances, hosts, principals, endpoint, trail, server.url, directory)


def _hosts(
    stack: contextlib.ExitStack, directory: Path, instances: list[Instance], options: Options
) -> Iterator[Sshd]:
    """Start every instance, on machines of their own where that is wanted or can be."""
    problem = obstacle() if options.machines is not False else ""
    if options.machines and problem:
        raise SandboxError(f"no machines for instances: {problem}")
    router = stack.enter_context(network()) if problem is None else None
    for instance in instances:
        files = directory / instance.id
        files.mkdir()
        place = None
        if router is not None:
            place = stack.enter_context(machine())
            attach(router, place, instance.private_ip)
            name = f"ip-{instance.private_ip.replace('.', '-')}"
            stack.enter_context(guest(place, files, name))
        stack.enter_context(instance.serve_metadata(files, place))
        host = Sshd(
            files / "sshd",
            instance.config,
            machine=place,
            address=instance.private_ip if place else "127.0.0.1",
            user=USER if place else None,
            settings=options.settings,
            resident=options.resident,
            alias=instance.id,
        )
        stack.enter_context(host)
        instance.ssh_port = host.port
        yield host


def _write_ssh_files(directory: Path, instances: list[Instance], hosts: list[Sshd]) -> None:
    """Write `known_hosts` of all instances, and an `ssh_config` that knows them by their ids."""
    known_hosts = directory / "known_hosts"
    known_hosts.write_text("".join((host.directory / "known_hosts").read_text() for host in hosts))
    stanzas = [
        f"Host {instance.id}\n    HostName {instance.public_ip}\n    Port {instance.ssh_port}\n"
        f"    User {host.user}\n"
        for instance, host in zip(instances, hosts, strict=True)
    ]
    always = f"Host *\n    UserKnownHostsFile {known_hosts}\n    IdentitiesOnly yes\n"
    (directory / "ssh_config").write_text("".join([*stanzas, always]))


def _instance(number: int) -> Instance:
    metadata = MetadataSimulator(
        instance_id=f"i-0123456789abcd{0xEF0 + number:03x}",
        region=REGION,
        availability_zone=REGION + ZONES[number % len(ZONES)],
    )
    return Instance(metadata, private_ip=f"172.31.0.{10 + number}")
