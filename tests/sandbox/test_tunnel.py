"""The tunnel carries bytes to whom IAM lets it, refuses as the AWS CLI shows it, and ends."""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from botocore.session import Session, get_session
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from eic_sandbox import iam
from eic_sandbox.certificates import CA_BUNDLE, server_tls
from eic_sandbox.cloudtrail import Trail
from eic_sandbox.instance import Endpoint, Instance
from eic_sandbox.simulator import MetadataSimulator
from eic_sandbox.tunnel import TunnelEndpoint
from eic_sandbox.tunnel_client import TunnelError, open_tunnel, presigned_url

ALICE, BOB = iam.load(iam.DEFAULT_FILE)
RESULT_TIMEOUT_S = 60.0
Result = TypeVar("Result")


@dataclass
class Rig:
    endpoint: Endpoint
    instance: Instance
    trail: Trail
    ca_bundle: Path
    clock_offset_s: float = 0.0

    def url(
        self,
        who: iam.Principal = ALICE,
        endpoint_id: str = "",
        address: str = "",
        port: int = 22,
        max_duration_s: int | None = None,
    ) -> str:
        return presigned_url(
            session(who),
            self.endpoint.dns_name,
            endpoint_id or self.endpoint.id,
            address or self.instance.private_ip,
            port,
            max_duration_s,
        )

    def use(self, url: str, talk: Callable[[ClientConnection], Awaitable[Result]]) -> Result:
        """Open a tunnel, talk through it, and give what came of it."""

        async def run() -> Result:
            async with open_tunnel(url, "test") as tunnel:
                return await asyncio.wait_for(talk(tunnel), RESULT_TIMEOUT_S)

        return asyncio.run(run())

    def refusal(self, url: str) -> tuple[str, str]:
        with pytest.raises(TunnelError) as caught:
            self.use(url, say_nothing)
        body = json.loads(str(caught.value).removeprefix("the endpoint refused: "))
        return body["ErrorCode"], body["Message"]


def session(who: iam.Principal) -> Session:
    found = get_session()
    found.set_config_variable("region", "us-east-1")
    found.set_credentials(who.access_key_id, who.secret_access_key)
    return found


@pytest.fixture
def echo() -> Iterator[int]:
    """Give the port of a server that sends back what it gets, one connection after another."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    while data := connection.recv(65536):
                        connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def rig(echo: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    instance = Instance(MetadataSimulator())
    instance.ssh_port = echo
    tls = server_tls(tmp_path, time.time())
    ca_bundle = tmp_path / CA_BUNDLE
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ca_bundle))
    rig = Rig(Endpoint("", "us-east-1"), instance, Trail(tmp_path / "trail"), ca_bundle)
    by_key = {principal.access_key_id: principal for principal in (ALICE, BOB)}
    with TunnelEndpoint(
        rig.endpoint,
        {instance.id: instance},
        by_key,
        rig.trail,
        tls,
        clock=lambda: time.time() + rig.clock_offset_s,
    ):
        yield rig


async def say_nothing(tunnel: ClientConnection) -> None:
    pass


async def closing_reason(tunnel: ClientConnection) -> str | None:
    """Wait until the endpoint closes the tunnel, and give the reason that it says."""
    with contextlib.suppress(ConnectionClosed):
        async for _ in tunnel:
            pass
    return tunnel.close_reason


def test_bytes_go_both_ways_whatever_their_number(rig: Rig) -> None:
    sent = os.urandom(3_000_000)

    async def send_and_receive(tunnel: ClientConnection) -> bytes:
        sending = asyncio.ensure_future(tunnel.send(sent))
        received = b""
        while len(received) < len(sent):
            received += await tunnel.recv(decode=False)
        await sending
        return received

    assert rig.use(rig.url(), send_and_receive) == sent


def test_several_tunnels_are_open_at_once(rig: Rig) -> None:
    async def talk_beside_another(first: ClientConnection) -> list[str | bytes]:
        await first.send(b"1")
        answers = [await first.recv()]
        async with open_tunnel(rig.url(), "test"):
            await first.send(b"2")
            answers.append(await first.recv())
        return answers

    assert rig.use(rig.url(), talk_beside_another) == [b"1", b"2"]


@pytest.mark.parametrize(
    ("ask", "code", "message"),
    [
        (
            {"port": 5432},
            "InvalidParameter",
            "RemotePort is not valid. Specify either 22 or 3389 as the RemotePort and retry",
        ),
        ({"address": "169.254.169.254"}, "InvalidParameter", "PrivateIpAddress is not valid"),
        ({"address": "127.0.0.1"}, "InvalidParameter", "PrivateIpAddress is not valid"),
        ({"endpoint_id": "eice-1"}, "InvalidParameter", "InstanceConnectEndpointId is not valid"),
        ({"max_duration_s": 3601}, "InvalidParameter", "MaxTunnelDuration is not valid"),
        ({"max_duration_s": 0}, "InvalidParameter", "MaxTunnelDuration is not valid"),
        ({"who": BOB}, "AccessDenied", "no identity-based policy allows"),
    ],
)
def test_what_may_not_be_reached_is_refused_and_recorded(
    rig: Rig, ask: dict[str, object], code: str, message: str
) -> None:
    found = rig.refusal(rig.url(**ask))  # type: ignore[arg-type]  # parametrize knows no types
    assert found[0] == code
    assert message in found[1]
    (record,) = rig.trail.records()
    assert (record["eventName"], record["errorCode"]) == ("OpenTunnel", code)


def test_a_url_that_is_changed_old_or_nobodys_is_refused_without_a_record(rig: Rig) -> None:
    url = rig.url()
    assert rig.refusal(url.replace("remotePort=22", "remotePort=3389"))[0] == "AccessDenied"
    assert rig.refusal(url.replace(ALICE.access_key_id, "AKIANOBODY"))[0] == "AccessDenied"
    rig.clock_offset_s = 61.0
    assert "Signature expired" in rig.refusal(url)[1]
    assert rig.trail.records() == []


def test_an_opened_tunnel_is_recorded_with_endpoint_port_and_address(rig: Rig) -> None:
    async def request_id_of(tunnel: ClientConnection) -> str:
        assert tunnel.response is not None
        return tunnel.response.headers["x-amzn-RequestId"]

    request_id = rig.use(rig.url(max_duration_s=60), request_id_of)
    (record,) = rig.trail.records()
    assert record["eventName"] == "OpenTunnel"
    assert record["requestID"] == request_id
    assert record["userAgent"] == "test"
    assert record["requestParameters"] == {
        "instanceConnectEndpointId": rig.endpoint.id,
        "remotePort": "22",
        "privateIpAddress": rig.instance.private_ip,
        "maxTunnelDuration": "60",
    }
    assert record["resources"] == [
        {
            "accountId": "123456789012",
            "type": "AWS::EC2::InstanceConnectEndpoint",
            "ARN": rig.endpoint.arn("123456789012"),
        }
    ]


def test_a_tunnel_ends_when_its_time_is_over(rig: Rig) -> None:
    reason = rig.use(rig.url(max_duration_s=1), closing_reason)
    assert reason == "Maximum tunnel duration reached"


@pytest.mark.parametrize("port", [22, 3389])
def test_where_nothing_listens_the_websocket_is_closed_with_the_reason(rig: Rig, port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        rig.instance.ssh_port = gone.getsockname()[1]
    assert rig.use(rig.url(port=port), closing_reason) == "Unable to connect to target"


def test_the_certificate_is_checked_by_a_client_that_trusts_the_sandboxs_ca_only(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(TunnelError, match="certificate verify failed"):
        rig.use(rig.url(), say_nothing)
    context = ssl.create_default_context(cafile=rig.ca_bundle)
    host, port = rig.endpoint.dns_name.split(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        assert secured.version() == "TLSv1.3"


@pytest.fixture
def run_client(rig: Rig) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    def run(*words: str, sent: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        environment = {
            **os.environ,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": ALICE.access_key_id,
            "AWS_SECRET_ACCESS_KEY": ALICE.secret_access_key,
        }
        command = [sys.executable, "-m", "eic_sandbox.tunnel_client", *words]
        command += ["--instance-connect-endpoint-id", rig.endpoint.id]
        command += ["--instance-connect-endpoint-dns-name", rig.endpoint.dns_name]
        return subprocess.run(
            command, input=sent, env=environment, capture_output=True, check=False, timeout=120
        )

    return run


def test_the_proxy_command_says_on_stderr_why_there_is_no_tunnel(
    rig: Rig, run_client: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    address = ("--private-ip-address", rig.instance.private_ip)
    refused = run_client(*address, "--remote-port", "80")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"The specified RemotePort is not valid" in refused.stderr
    closed = run_client(*address, "--remote-port", "3389")
    assert (closed.returncode, closed.stdout) == (1, b"")
    assert b"Websocket Closure Reason: Unable to connect to target" in closed.stderr
