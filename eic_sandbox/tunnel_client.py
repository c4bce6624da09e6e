"""A client of the EC2 Instance Connect Endpoint, for ssh's ProxyCommand.

It takes the options of `aws ec2-instance-connect open-tunnel` (version 2 of the AWS CLI, which is
not on PyPI) and speaks the same protocol; credentials, region, endpoint URL and AWS_CA_BUNDLE are
taken from where botocore takes them.
"""

import argparse
import asyncio
import contextlib
import os
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import urlencode

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.session import Session, get_session
from botocore.signers import RequestSigner
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

# What is read at a time, and goes into one frame.
_FRAME = 65_000
_OPEN_TIMEOUT_S = 60.0
_NORMAL_CLOSURE = 1000


class TunnelError(Exception):
    """The tunnel cannot be opened, or did not end well; the text is for the user."""


def presigned_url(
    session: Session,
    dns_name: str,
    endpoint_id: str,
    private_ip: str,
    remote_port: int = 22,
    max_duration_s: int | None = None,
) -> str:
    """Return the URL that opens a tunnel within the next 60 seconds."""
    query: dict[str, object] = {
        "instanceConnectEndpointId": endpoint_id,
        "remotePort": remote_port,
        "privateIpAddress": private_ip,
    }
    if max_duration_s is not None:
        query["maxTunnelDuration"] = max_duration_s
    credentials = session.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    model = session.get_service_model("ec2-instance-connect")
    signer = RequestSigner(
        model.service_id,
        session.get_config_variable("region"),
        model.signing_name,
        model.signature_version,
        credentials,
        session.get_component("event_emitter"),
    )
    request = {
        "method": "GET",
        "url": f"wss://{dns_name}/openTunnel?{urlencode(query)}",
        "url_path": "/",
        "query_string": "",
        "headers": {"host": dns_name},
        "body": {},
        "context": {},
    }
    url: str = signer.generate_presigned_url(request, operation_name="openTunnel", expires_in=60)
    return url


# Not websockets' client for threads: over TLS it reads and writes one SSL object from two threads
# at once, which OpenSSL does not allow; about one handshake in a hundred was lost.
@contextlib.asynccontextmanager
async def open_tunnel(url: str, user_agent: str) -> AsyncIterator[ClientConnection]:
    """Connect to the presigned URL; raises TunnelError with the service's own words."""
    tls = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))
    try:
        connection = await connect(
            url,
            ssl=tls,
            compression=None,
            max_size=None,
            user_agent_header=user_agent,
            proxy=None,
            open_timeout=_OPEN_TIMEOUT_S,
        )
    except InvalidStatus as error:
        said = (error.response.body or b"").decode("utf-8", "replace")
        raise TunnelError(f"the endpoint refused: {said}") from error
    except (OSError, WebSocketException) as error:
        raise TunnelError(f"no tunnel: {error}") from error
    try:
        yield connection
    finally:
        await connection.close()


async def carry(connection: ClientConnection) -> None:
    """Carry stdin and stdout until either side ends; raises TunnelError if it ended badly."""
    loop = asyncio.get_running_loop()
    threading.Thread(target=_send_stdin, args=(connection, loop), daemon=True).start()
    try:
        async for message in connection:
            if isinstance(message, str):
                raise TunnelError("the endpoint sent text")
            _write_all(message)
    except ConnectionClosed:
        pass
    except BrokenPipeError:
        return
    if connection.close_code not in (None, _NORMAL_CLOSURE):
        raise TunnelError(f"Websocket Closure Reason: {connection.close_reason}")


def _send_stdin(connection: ClientConnection, loop: asyncio.AbstractEventLoop) -> None:
    with contextlib.suppress(ConnectionClosed, OSError):
        while data := os.read(0, _FRAME):
            asyncio.run_coroutine_threadsafe(connection.send(data), loop).result()
        asyncio.run_coroutine_threadsafe(connection.close(), loop).result()


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--instance-id")
    parser.add_argument("--private-ip-address")
    parser.add_argument("--instance-connect-endpoint-id")
    parser.add_argument("--instance-connect-endpoint-dns-name")
    parser.add_argument("--remote-port", type=int, default=22)
    parser.add_argument("--max-tunnel-duration", type=int)
    return parser


def _described(session: Session, args: argparse.Namespace) -> tuple[str, str, str]:
    """Give DNS name and id of the endpoint, and the instance's address, asking EC2 for the rest."""
    dns_name = args.instance_connect_endpoint_dns_name
    endpoint_id = args.instance_connect_endpoint_id
    address = args.private_ip_address
    if dns_name and endpoint_id and address:
        return dns_name, endpoint_id, address
    ec2: Any = session.create_client("ec2")
    if not address:
        answer = ec2.describe_instances(InstanceIds=[args.instance_id])
        address = answer["Reservations"][0]["Instances"][0]["PrivateIpAddress"]
    if not dns_name or not endpoint_id:
        wanted = {"InstanceConnectEndpointIds": [endpoint_id]} if endpoint_id else {}
        found = ec2.describe_instance_connect_endpoints(**wanted)["InstanceConnectEndpoints"]
        if not found:
            raise TunnelError("there are no available instance connect endpoints")
        dns_name = dns_name or found[0]["DnsName"]
        endpoint_id = found[0]["InstanceConnectEndpointId"]
    return dns_name, endpoint_id, address


async def _open_and_carry(url: str, user_agent: str) -> None:
    async with open_tunnel(url, user_agent) as connection:
        await carry(connection)


def main(argv: Sequence[str] | None = None) -> int:
    """Open a tunnel between stdin, stdout and an instance."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not args.instance_id and not args.private_ip_address:
        parser.error("specify --instance-id or --private-ip-address")
    session = get_session()
    try:
        dns_name, endpoint_id, address = _described(session, args)
        url = presigned_url(
            session, dns_name, endpoint_id, address, args.remote_port, args.max_tunnel_duration
        )
        asyncio.run(_open_and_carry(url, session.user_agent()))
    except (TunnelError, BotoCoreError, ClientError) as error:
        print(f"open-tunnel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
