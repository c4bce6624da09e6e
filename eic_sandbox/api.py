"""The operations of the EC2 Instance Connect API, for a caller already known by a signature."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from eic_sandbox.iam import OS_USER, SEND_SSH_PUBLIC_KEY, SOURCE_IP, AccessDenied, Principal
from eic_sandbox.instance import Instance
from eic_sandbox.model import InvalidParameter, Push, parse_push


class ApiError(Exception):
    """A refusal, under the error code that the API documents for it."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass(frozen=True)
class Call:
    """One call: who makes it, from where, with what, and the id that it will be known by."""

    principal: Principal
    parameters: object
    source_ip: str
    request_id: str


class InstanceConnectApi:
    """Answers the API's operations for the given instances."""

    def __init__(self, instances: Mapping[str, Instance]) -> None:
        self._instances = instances
        self.operations: Mapping[str, Callable[[Call], dict[str, object]]] = {
            "SendSSHPublicKey": self.send_ssh_public_key,
            "SendSerialConsoleSSHPublicKey": self.send_serial_console_ssh_public_key,
        }

    def send_ssh_public_key(self, call: Call) -> dict[str, object]:
        """Put a key into an instance's metadata; raises ApiError."""
        try:
            push = parse_push(call.parameters)
        except InvalidParameter as error:
            raise ApiError("InvalidArgsException", str(error)) from error
        instance = self._instances.get(push.instance_id)
        arn = f"arn:aws:ec2:*:{call.principal.account}:instance/{push.instance_id}"
        if instance is not None:
            arn = instance.arn(call.principal.account)
        context = {OS_USER: push.os_user, SOURCE_IP: call.source_ip}
        try:
            call.principal.authorize(SEND_SSH_PUBLIC_KEY, arn, context)
        except AccessDenied as error:
            raise ApiError("AuthException", str(error), 403) from error
        reachable = _reachable(instance, push)
        reachable.push(push.os_user, push.public_key, call.principal.arn, call.request_id)
        return {"RequestId": call.request_id, "Success": True}

    def send_serial_console_ssh_public_key(self, call: Call) -> dict[str, object]:
        """Refuse: there is no serial console here."""
        raise ApiError(
            "SerialConsoleAccessDisabledException",
            "this account is not authorized to use the EC2 serial console",
            403,
        )


def _reachable(instance: Instance | None, push: Push) -> Instance:
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
