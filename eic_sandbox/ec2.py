"""What clients ask of EC2 and STS before they connect, in the Query API's XML."""

import fnmatch
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from eic_sandbox.api import ApiError, Call
from eic_sandbox.iam import AccessDenied
from eic_sandbox.instance import SUBNETS, VPC, Endpoint, Instance

EC2_NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
STS_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
# Long ago enough for whoever looks at it; nothing here depends on it.
_CREATED = "2025-01-01T00:00:00.000Z"
_STATE_CODES = {"pending": "0", "running": "16", "stopping": "64", "stopped": "80"}

Tree: TypeAlias = "str | Sequence[Tree] | Mapping[str, Tree]"


@dataclass(frozen=True)
class _Item:
    """One thing described: what filters look at, and what is answered."""

    filters: Mapping[str, str]
    tree: Mapping[str, Tree]


class DescribeApi:
    """Answers EC2's and STS's operations for these instances and this endpoint."""

    def __init__(self, instances: Mapping[str, Instance], endpoint: Endpoint) -> None:
        self._instances = instances
        self._endpoint = endpoint
        self.operations: Mapping[tuple[str, str], Callable[[Call], bytes]] = {
            ("ec2", "DescribeInstances"): self.describe_instances,
            ("ec2", "DescribeInstanceConnectEndpoints"): self.describe_endpoints,
            ("sts", "GetCallerIdentity"): self.get_caller_identity,
        }

    def describe_instances(self, call: Call) -> bytes:
        """Answer with the instances asked for; raises ApiError."""
        _authorize(call, "ec2:DescribeInstances")
        parameters = _form(call)
        wanted = _numbered(parameters, "InstanceId")
        for name in wanted:
            if name not in self._instances:
                raise ApiError(
                    "InvalidInstanceID.NotFound", f"The instance ID '{name}' does not exist"
                )
        items = [
            _instance(instance)
            for instance in self._instances.values()
            if not wanted or instance.id in wanted
        ]
        reservations: list[Tree] = [
            {
                "reservationId": f"r-{item.filters['instance-id'][2:]}",
                "ownerId": call.principal.account,
                "groupSet": [],
                "instancesSet": [item.tree],
            }
            for item in _filtered(items, parameters)
        ]
        answer: dict[str, Tree] = {"requestId": call.request_id, "reservationSet": reservations}
        return _xml("DescribeInstancesResponse", EC2_NAMESPACE, answer)

    def describe_endpoints(self, call: Call) -> bytes:
        """Answer with the endpoint, where it is asked for; raises ApiError."""
        _authorize(call, "ec2:DescribeInstanceConnectEndpoints")
        parameters = _form(call)
        wanted = _numbered(parameters, "InstanceConnectEndpointId")
        for name in wanted:
            if name != self._endpoint.id:
                raise ApiError(
                    "InvalidInstanceConnectEndpointId.NotFound",
                    f"The instance connect endpoint ID '{name}' does not exist",
                )
        items = _filtered([_endpoint(self._endpoint, call.principal.account)], parameters)
        answer: dict[str, Tree] = {
            "requestId": call.request_id,
            "instanceConnectEndpointSet": [item.tree for item in items],
        }
        return _xml("DescribeInstanceConnectEndpointsResponse", EC2_NAMESPACE, answer)

    def get_caller_identity(self, call: Call) -> bytes:
        """Say who calls; as in AWS no policy can forbid it."""
        who = call.principal
        answer = {
            "GetCallerIdentityResult": {
                "Arn": who.arn,
                "UserId": who.unique_id,
                "Account": who.account,
            },
            "ResponseMetadata": {"RequestId": call.request_id},
        }
        return _xml("GetCallerIdentityResponse", STS_NAMESPACE, answer)


def error_xml(service: str, error: ApiError, request_id: str) -> bytes:
    """Return a refusal as this service writes it."""
    if service == "sts":
        told = {"Type": "Sender", "Code": error.code, "Message": str(error)}
        return _xml("ErrorResponse", STS_NAMESPACE, {"Error": told, "RequestId": request_id})
    root = ET.Element("Response")
    _append(
        root,
        {"Errors": {"Error": {"Code": error.code, "Message": str(error)}}, "RequestID": request_id},
    )
    return _bytes(root)


def _instance(instance: Instance) -> _Item:
    zone = instance.metadata.availability_zone
    filters = {
        "instance-id": instance.id,
        "instance-state-name": instance.state,
        "availability-zone": zone,
        "private-ip-address": instance.private_ip,
        "ip-address": instance.public_ip,
        "vpc-id": VPC,
        "subnet-id": instance.subnet,
    }
    tree: dict[str, Tree] = {
        "instanceId": instance.id,
        "imageId": "ami-0e1c0000000000000",
        "instanceState": {"code": _STATE_CODES[instance.state], "name": instance.state},
        "privateDnsName": f"ip-{instance.private_ip.replace('.', '-')}.ec2.internal",
        "instanceType": "t3.micro",
        "launchTime": _CREATED,
        "placement": {"availabilityZone": zone, "groupName": "", "tenancy": "default"},
        "subnetId": instance.subnet,
        "vpcId": VPC,
        "privateIpAddress": instance.private_ip,
        "ipAddress": instance.public_ip,
        "architecture": "x86_64",
        "rootDeviceType": "ebs",
        "virtualizationType": "hvm",
        "hypervisor": "xen",
        "networkInterfaceSet": [],
        "tagSet": [],
    }
    return _Item(filters, tree)


def _endpoint(endpoint: Endpoint, owner: str) -> _Item:
    filters = {
        "instance-connect-endpoint-id": endpoint.id,
        "state": "create-complete",
        "vpc-id": VPC,
        "subnet-id": SUBNETS[endpoint.zone[-1]],
    }
    tree: dict[str, Tree] = {
        "ownerId": owner,
        "instanceConnectEndpointId": endpoint.id,
        "instanceConnectEndpointArn": endpoint.arn(owner),
        "state": "create-complete",
        "stateMessage": "",
        "dnsName": endpoint.dns_name,
        "networkInterfaceIdSet": [],
        "vpcId": VPC,
        "availabilityZone": endpoint.zone,
        "createdAt": _CREATED,
        "subnetId": SUBNETS[endpoint.zone[-1]],
        "preserveClientIp": "false",
        "securityGroupIdSet": [],
        "tagSet": [],
    }
    return _Item(filters, tree)


def _authorize(call: Call, action: str) -> None:
    try:
        call.principal.authorize(action, "*", {})
    except AccessDenied as error:
        raise ApiError(
            "UnauthorizedOperation",
            f"You are not authorized to perform this operation. {error}",
            403,
        ) from error


def _form(call: Call) -> Mapping[str, str]:
    assert isinstance(call.parameters, dict)
    return call.parameters


def _numbered(parameters: Mapping[str, str], prefix: str) -> list[str]:
    return [value for name, value in parameters.items() if name.startswith(f"{prefix}.")]


def _filtered(items: Iterable[_Item], parameters: Mapping[str, str]) -> list[_Item]:
    kept = list(items)
    number = 1
    while (name := parameters.get(f"Filter.{number}.Name")) is not None:
        patterns = _numbered(parameters, f"Filter.{number}.Value")
        for item in kept:
            if name not in item.filters:
                raise ApiError("InvalidParameterValue", f"The filter '{name}' is invalid")
        kept = [
            item
            for item in kept
            if any(fnmatch.fnmatchcase(item.filters[name], pattern) for pattern in patterns)
        ]
        number += 1
    return kept


def _xml(name: str, namespace: str, tree: Mapping[str, Tree]) -> bytes:
    root = ET.Element(name, xmlns=namespace)
    _append(root, tree)
    return _bytes(root)


def _bytes(root: ET.Element) -> bytes:
    text: str = ET.tostring(root, encoding="unicode")
    return text.encode()


def _append(parent: ET.Element, tree: Tree) -> None:
    if isinstance(tree, str):
        parent.text = tree
    elif isinstance(tree, Mapping):
        for name, below in tree.items():
            _append(ET.SubElement(parent, name), below)
    else:
        for below in tree:
            _append(ET.SubElement(parent, "item"), below)
