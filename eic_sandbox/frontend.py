"""One URL for three AWS APIs: tells them apart, checks signatures, throttles, and keeps the log."""

import json
import uuid
from collections.abc import Generator, Mapping
from urllib.parse import parse_qsl

from eic_sandbox.api import ApiError, Call, InstanceConnectApi
from eic_sandbox.cloudtrail import Event, Trail
from eic_sandbox.ec2 import DescribeApi, error_xml
from eic_sandbox.iam import Principal
from eic_sandbox.sigv4 import Fault, SignatureRefused, SignedRequest, verify_headers
from eic_sandbox.simulator.faults import Answer, Wait
from eic_sandbox.simulator.server import Request
from eic_sandbox.throttle import Throttle

TARGET = "AWSEC2InstanceConnectService."
SERVICE = "ec2-instance-connect"

# Error code and HTTP status of each fault of a signature.
_JSON_FAULTS = {
    Fault.MISSING: ("MissingAuthenticationTokenException", 400),
    Fault.INCOMPLETE: ("IncompleteSignatureException", 400),
    Fault.UNKNOWN_KEY: ("UnrecognizedClientException", 400),
    Fault.EXPIRED: ("InvalidSignatureException", 400),
    Fault.MISMATCH: ("InvalidSignatureException", 400),
}
_EC2_FAULTS = {
    Fault.MISSING: ("MissingAuthenticationToken", 403),
    Fault.INCOMPLETE: ("IncompleteSignature", 400),
    Fault.UNKNOWN_KEY: ("AuthFailure", 401),
    Fault.EXPIRED: ("RequestExpired", 400),
    Fault.MISMATCH: ("SignatureDoesNotMatch", 403),
}
_STS_FAULTS = {
    **_EC2_FAULTS,
    Fault.UNKNOWN_KEY: ("InvalidClientTokenId", 403),
    Fault.EXPIRED: ("SignatureDoesNotMatch", 403),
}


class Frontend:
    """Answers HTTP requests of the AWS CLI and SDKs; the clock is that of the instances."""

    def __init__(
        self,
        principals: Mapping[str, Principal],
        connect: InstanceConnectApi,
        describe: DescribeApi,
        trail: Trail,
        throttle: Throttle,
        region: str,
    ) -> None:
        self._principals = principals
        self._connect = connect
        self._describe = describe
        self._trail = trail
        self._throttle = throttle
        self._region = region

    def handle(self, request: Request, wait: Wait, now: float) -> Generator[bytes, None, None]:
        """Answer one HTTP request; `now` in seconds since the epoch."""
        request_id = str(uuid.uuid4())
        if "x-amz-target" in request.headers:
            yield self._json(request, request_id, now).raw()
        else:
            yield self._query(request, request_id, now).raw()

    def _json(self, request: Request, request_id: str, now: float) -> Answer:
        headers = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-RequestId": request_id}
        try:
            status, body = 200, self._call_connect(request, request_id, now)
        except ApiError as error:
            status, body = error.status, {"__type": error.code, "Message": str(error)}
        return Answer(status, json.dumps(body).encode(), headers)

    def _call_connect(self, request: Request, request_id: str, now: float) -> dict[str, object]:
        principal = self._authenticate(request, now, [SERVICE], _JSON_FAULTS)
        target = request.headers["x-amz-target"]
        name = target.removeprefix(TARGET)
        operation = self._connect.operations.get(name)
        if request.method != "POST" or operation is None or name == target:
            raise ApiError("UnknownOperationException", f"there is no operation {target!a}")
        if not self._throttle.admits(principal.arn):
            raise ApiError("ThrottlingException", "Rate exceeded")
        try:
            parameters = json.loads(request.body)
        except ValueError:
            raise ApiError("SerializationException", "the request's body is no JSON") from None
        call = Call(principal, parameters, request.client, request_id)
        try:
            answer = operation(call)
        except ApiError as error:
            self._record(name, call, request, now, (error.code, str(error)))
            raise
        self._record(name, call, request, now, None)
        return answer

    def _record(
        self, name: str, call: Call, request: Request, now: float, error: tuple[str, str] | None
    ) -> None:
        given = call.parameters if isinstance(call.parameters, dict) else {}
        parameters: dict[str, object] = {
            "instanceId": given.get("InstanceId"),
            "osUser": given.get("InstanceOSUser"),
            "SSHKey": {"publicKey": given.get("SSHPublicKey")},
        }
        if given.get("AvailabilityZone") is not None:
            parameters["availabilityZone"] = given["AvailabilityZone"]
        event = Event(
            name=name,
            now=now,
            region=self._region,
            request_id=call.request_id,
            source_ip=call.source_ip,
            user_agent=request.headers.get("user-agent", ""),
            principal=call.principal,
            parameters=parameters,
            response=None if error else {"requestId": call.request_id, "success": True},
            error=error,
        )
        self._trail.write(event)

    def _query(self, request: Request, request_id: str, now: float) -> Answer:
        headers = {"Content-Type": "text/xml;charset=UTF-8", "x-amzn-RequestId": request_id}
        # The URL is the same for all services; the signature's scope says which one is meant.
        scoped = "/sts/aws4_request" in request.headers.get("authorization", "")
        service = "sts" if scoped else "ec2"
        try:
            status, body = 200, self._call_describe(service, request, request_id, now)
        except ApiError as error:
            status, body = error.status, error_xml(service, error, request_id)
        return Answer(status, body, headers)

    def _call_describe(self, service: str, request: Request, request_id: str, now: float) -> bytes:
        faults = _STS_FAULTS if service == "sts" else _EC2_FAULTS
        principal = self._authenticate(request, now, [service], faults)
        form = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
        action = form.get("Action", "")
        operation = self._describe.operations.get((service, action))
        if operation is None:
            raise ApiError("InvalidAction", f"The action {action!a} is not valid for this sandbox.")
        if not self._throttle.admits(principal.arn):
            raise ApiError("RequestLimitExceeded", "Request limit exceeded.", 503)
        return operation(Call(principal, form, request.client, request_id))

    def _authenticate(
        self,
        request: Request,
        now: float,
        services: list[str],
        faults: Mapping[Fault, tuple[str, int]],
    ) -> Principal:
        url = f"http://{request.headers.get('host', '')}{request.path}"
        signed = SignedRequest(request.method, url, request.headers, request.body)
        try:
            key_id = verify_headers(signed, self._principals.get, now, self._region, services)
        except SignatureRefused as error:
            code, status = faults[error.fault]
            raise ApiError(code, str(error), status) from error
        return self._principals[key_id]
