"""The EC2 Instance Connect Endpoint: TCP to an instance through a websocket with a signed URL.

`wss://DNS-NAME/openTunnel?instanceConnectEndpointId=...&remotePort=...&privateIpAddress=...`, with
`&maxTunnelDuration=...` where wanted, presigned; then binary frames in both directions. What is
refused is answered before the upgrade with a JSON body, which the AWS CLI shows; what fails later
closes the websocket with a reason, which it shows too.
"""

import asyncio
import contextlib
import json
import re
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from eic_sandbox.cloudtrail import Event, Trail
from eic_sandbox.iam import (
    MAX_DURATION,
    OPEN_TUNNEL,
    PRIVATE_IP,
    REMOTE_PORT,
    SOURCE_IP,
    AccessDenied,
    Principal,
)
from eic_sandbox.instance import Endpoint, Instance
from eic_sandbox.process import Running
from eic_sandbox.sigv4 import SignatureRefused, SignedRequest, verify_url

SERVICE = "ec2-instance-connect"
URL_LIFETIME_S = 60
MAX_DURATION_S = 3600
PORTS = (22, 3389)
_FRAME = 65_536
_OPEN_TIMEOUT_S = 60.0
_Result = TypeVar("_Result")
_TRY_AGAIN = "and retry your request."


@dataclass(frozen=True)
class Target:
    """Where an accepted tunnel leads; no `address` where nothing listens on the port."""

    address: tuple[str, int] | None
    duration_s: int


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class TunnelEndpoint(Running):
    """Serves while the context lasts, in a thread of its own; sets the endpoint's DNS name."""

    def __init__(
        self,
        endpoint: Endpoint,
        instances: Mapping[str, Instance],
        principals: Mapping[str, Principal],
        trail: Trail,
        tls: ssl.SSLContext,
        *,
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._endpoint = endpoint
        self._instances = instances
        self._principals = principals
        self._trail = trail
        self._tls = tls
        self._port = port
        self._clock = clock
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tunnel", daemon=True)
        self._targets: dict[uuid.UUID, Target] = {}

    def _start(self, ends: contextlib.ExitStack) -> None:
        self._thread.start()
        ends.callback(self._end)
        server = self._run(self._serve())
        ends.callback(lambda: self._run(_close(server)))
        port = next(iter(server.sockets)).getsockname()[1]
        self._endpoint.dns_name = "localhost" if port == 443 else f"localhost:{port}"

    def _run(self, coroutine: Coroutine[object, None, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> Server:
        server: Server = await serve(
            self._carry,
            "127.0.0.1",
            self._port,
            ssl=self._tls,
            process_request=self._admit,
            process_response=_name,
            compression=None,
            max_size=None,
            open_timeout=_OPEN_TIMEOUT_S,
            close_timeout=1.0,
        )
        return server

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        request_id = str(connection.id)
        try:
            target = self._target(connection, request, request_id)
        except _Refused as refused:
            body = json.dumps({"ErrorCode": refused.code, "Message": str(refused)})
            return connection.respond(refused.status, body)
        self._targets[connection.id] = target
        return None

    def _target(self, connection: ServerConnection, request: Request, request_id: str) -> Target:
        """Check what is asked for, and log it once it is known who asks; raises _Refused."""
        now = self._clock()
        parts = urlsplit(request.path)
        if parts.path != "/openTunnel":
            raise _Refused(HTTPStatus.NOT_FOUND, "NotFound", f"there is no {parts.path!a} here")
        principal = self._authenticate(request, now)
        given = {
            name: value
            for name, value in parse_qsl(parts.query, keep_blank_values=True)
            if not name.startswith("X-Amz-")
        }
        source_ip = str(connection.remote_address[0])
        refused = None
        try:
            return self._check(principal, given, source_ip)
        except _Refused as error:
            refused = (error.code, str(error))
            raise
        finally:
            arn = self._endpoint.arn(principal.account)
            event = Event(
                name="OpenTunnel",
                now=now,
                region=self._endpoint.region,
                request_id=request_id,
                source_ip=source_ip,
                user_agent=request.headers.get("User-Agent", ""),
                principal=principal,
                parameters=given,
                error=refused,
                resource=("AWS::EC2::InstanceConnectEndpoint", arn),
            )
            self._trail.write(event)

    def _authenticate(self, request: Request, now: float) -> Principal:
        url = f"wss://{request.headers.get('Host', '')}{request.path}"
        signed = SignedRequest("GET", url, _lower(request.headers))
        try:
            key_id = verify_url(
                signed, self._principals.get, now, self._endpoint.region, SERVICE, URL_LIFETIME_S
            )
        except SignatureRefused as error:
            raise _Refused(HTTPStatus.FORBIDDEN, "AccessDenied", str(error)) from error
        return self._principals[key_id]

    def _check(self, principal: Principal, given: Mapping[str, str], source_ip: str) -> Target:
        if given.get("instanceConnectEndpointId") != self._endpoint.id:
            raise _invalid("InstanceConnectEndpointId", f"Specify {self._endpoint.id} {_TRY_AGAIN}")
        port = _number(given.get("remotePort"))
        if port not in PORTS:
            raise _invalid(
                "RemotePort", f"Specify either 22 or 3389 as the RemotePort {_TRY_AGAIN}"
            )
        duration_s = _number(given.get("maxTunnelDuration", str(MAX_DURATION_S)))
        if duration_s is None or not 1 <= duration_s <= MAX_DURATION_S:
            raise _invalid("MaxTunnelDuration", f"Specify 1 to {MAX_DURATION_S} {_TRY_AGAIN}")
        address = given.get("privateIpAddress", "")
        context = {REMOTE_PORT: str(port), MAX_DURATION: str(duration_s), SOURCE_IP: source_ip}
        instance = next((i for i in self._instances.values() if i.private_ip == address), None)
        if instance is not None:
            context[PRIVATE_IP] = address
        try:
            principal.authorize(OPEN_TUNNEL, self._endpoint.arn(principal.account), context)
        except AccessDenied as error:
            raise _Refused(HTTPStatus.FORBIDDEN, "AccessDenied", str(error)) from error
        if instance is None:
            raise _invalid(
                "PrivateIpAddress", f"Specify the private address of an instance {_TRY_AGAIN}"
            )
        # An instance of the sandbox listens for SSH only.
        listening = port == 22 and instance.state == "running"
        return Target((instance.public_ip, instance.ssh_port) if listening else None, duration_s)

    async def _carry(self, connection: ServerConnection) -> None:
        target = self._targets.pop(connection.id)
        try:
            if target.address is None:
                raise ConnectionRefusedError
            reader, writer = await asyncio.open_connection(*target.address)
        except OSError:
            await connection.close(1011, "Unable to connect to target")
            return
        tasks = {
            asyncio.ensure_future(_upstream(connection, writer)),
            asyncio.ensure_future(_downstream(reader, connection)),
        }
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=target.duration_s, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                await connection.close()
            else:
                await connection.close(1008, "Maximum tunnel duration reached")
        finally:
            writer.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _upstream(connection: ServerConnection, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionClosed, OSError):
        async for message in connection:
            if isinstance(message, str):
                await connection.close(1003, "Only binary frames are accepted")
                return
            writer.write(message)
            await writer.drain()


async def _downstream(reader: asyncio.StreamReader, connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed, OSError):
        while data := await reader.read(_FRAME):
            await connection.send(data)


async def _close(server: Server) -> None:
    server.close()
    await server.wait_closed()


def _name(connection: ServerConnection, request: Request, response: Response) -> None:
    response.headers["x-amzn-RequestId"] = str(connection.id)


def _invalid(parameter: str, instead: str) -> _Refused:
    message = f"The specified {parameter} is not valid. {instead}"
    return _Refused(HTTPStatus.BAD_REQUEST, "InvalidParameter", message)


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch("[0-9]{1,5}", text) else None


def _lower(headers: Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.raw_items()}
