"""The EC2 Instance Connect API: JSON 1.1 over HTTP, as the AWS CLI and SDKs speak it."""

import json
import re
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass

from tests.sandbox.instance import Instance
from tests.sandbox.model import InvalidParameter, Push, parse_push
from tests.simulator.faults import Answer, Wait
from tests.simulator.server import Request

TARGET = "AWSEC2InstanceConnectService."
_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256 .*Credential=([^/,\s]+)/")


class ApiError(Exception):
    """A refusal, under the error code that the API documents for it."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass(frozen=True)
class Principal:
    """Who calls: the IAM principal that stands as Caller in key blocks, and its credentials."""

    arn: str
    access_key_id: str
    secret_access_key: str


class InstanceConnectApi:
    """Answers the API's operations for the given instances and principals.

    A principal is known by the access key id in the request's Authorization header; the signature
    there is not checked.
    """

    def __init__(self, instances: Mapping[str, Instance], principals: Mapping[str, Principal]):
        self._instances = instances
        self._principals = principals

    def handle(self, request: Request, wait: Wait) -> Generator[bytes, None, None]:
        """Answer one HTTP request."""
        request_id = str(uuid.uuid4())
        try:
            status, body = 200, self._call(request, request_id)
        except ApiError as error:
            status, body = error.status, {"__type": error.code, "Message": str(error)}
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "x-amzn-RequestId": request_id,
        }
        yield Answer(status, json.dumps(body).encode(), headers).raw()

    def _call(self, request: Request, request_id: str) -> dict[str, object]:
        target = request.headers.get("x-amz-target", "")
        if request.method != "POST" or not target.startswith(TARGET):
            raise ApiError("UnknownOperationException", "no operation of EC2 Instance Connect")
        principal = self._authenticate(request)
        try:
            parameters = json.loads(request.body)
        except ValueError:
            raise ApiError("SerializationException", "the request's body is no JSON") from None
        operation = target[len(TARGET) :]
        if operation == "SendSSHPublicKey":
            return self._send_ssh_public_key(principal, parameters, request_id)
        if operation == "SendSerialConsoleSSHPublicKey":
            raise ApiError(
                "SerialConsoleAccessDisabledException",
                "this account is not authorized to use the EC2 serial console",
                status=403,
            )
        raise ApiError("UnknownOperationException", f"there is no operation {operation!a}")

    def _authenticate(self, request: Request) -> Principal:
        match = _CREDENTIAL.match(request.headers.get("authorization", ""))
        principal = self._principals.get(match[1]) if match else None
        if principal is None:
            raise ApiError(
                "AuthException", "the AWS credentials are not those of a principal here", 403
            )
        return principal

    def _send_ssh_public_key(
        self, principal: Principal, parameters: object, request_id: str
    ) -> dict[str, object]:
        try:
            push = parse_push(parameters)
        except InvalidParameter as error:
            raise ApiError("InvalidArgsException", str(error)) from error
        instance = self._reachable_instance(push)
        instance.push(push.os_user, push.public_key, principal.arn, request_id)
        return {"RequestId": request_id, "Success": True}

    def _reachable_instance(self, push: Push) -> Instance:
        instance = self._instances.get(push.instance_id)
        if instance is None:
            raise ApiError(
                "EC2InstanceNotFoundException", f"there is no instance {push.instance_id}", 404
            )
        zone = instance.metadata.availability_zone
        if push.availability_zone not in (None, zone):
            raise ApiError(
                "EC2InstanceNotFoundException",
                f"{push.instance_id} is not in {push.availability_zone}",
                404,
            )
        if instance.state != "running":
            raise ApiError(
                "EC2InstanceStateInvalidException",
                f"{push.instance_id} is {instance.state}; start it and try again",
            )
        if not instance.reachable:
            raise ApiError(
                "EC2InstanceUnavailableException",
                f"{push.instance_id} is unavailable; wait a few minutes and try again",
                503,
            )
        return instance
