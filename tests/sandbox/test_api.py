"""The sandbox's API takes what AWS's takes, and refuses the rest under AWS's error codes."""

import contextlib
import dataclasses
import importlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from eic_sandbox.api import InstanceConnectApi
from eic_sandbox.aws_cli import run_aws, send_ssh_public_key_command
from eic_sandbox.cloudtrail import Trail
from eic_sandbox.ec2 import DescribeApi
from eic_sandbox.frontend import SERVICE, TARGET, Frontend
from eic_sandbox.iam import Principal
from eic_sandbox.instance import Endpoint, Instance
from eic_sandbox.model import SHAPES
from eic_sandbox.sandbox import PRINCIPAL
from eic_sandbox.simulator import MetadataSimulator, SSHKey, new_key, rsa_ssh_key
from eic_sandbox.simulator.server import Server
from eic_sandbox.simulator.simulator import ACTIVE_KEYS
from eic_sandbox.throttle import Throttle

STRANGER = dataclasses.replace(PRINCIPAL, access_key_id="AKIANOBODY")
LIAR = dataclasses.replace(PRINCIPAL, secret_access_key="guessed")


@pytest.fixture
def instance() -> Instance:
    return Instance(MetadataSimulator())


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(tmp_path / "cloudtrail.jsonl")


@pytest.fixture
def serve(instance: Instance, trail: Trail) -> Iterator[Callable[[Throttle], str]]:
    """Give a function that serves the API with this throttle, and returns its URL."""
    by_id = {instance.id: instance}
    endpoint = Endpoint("localhost", "us-east-1")
    with contextlib.ExitStack() as stack:

        def start(throttle: Throttle) -> str:
            frontend = Frontend(
                {PRINCIPAL.access_key_id: PRINCIPAL},
                InstanceConnectApi(by_id),
                DescribeApi(by_id, endpoint),
                trail,
                throttle,
                "us-east-1",
            )
            server = Server(lambda request, wait: frontend.handle(request, wait, time.time()))
            stack.enter_context(contextlib.closing(server))
            return server.url

        yield start


@pytest.fixture
def url(serve: Callable[[Throttle], str]) -> str:
    return serve(Throttle(1000.0, 1000, time.monotonic))


def call(
    url: str,
    body: bytes,
    operation: str = "SendSSHPublicKey",
    who: Principal = PRINCIPAL,
    method: str = "POST",
) -> requests.Response:
    headers = {"X-Amz-Target": TARGET + operation}
    signed = AWSRequest(method, url, headers, body)
    credentials = Credentials(who.access_key_id, who.secret_access_key)
    SigV4Auth(credentials, SERVICE, "us-east-1").add_auth(signed)
    return requests.request(method, url, data=body, headers=dict(signed.headers), timeout=30)


def push(url: str, **changed: object) -> requests.Response:
    parameters = {
        "InstanceId": "i-0123456789abcdef0",
        "InstanceOSUser": "alice",
        "SSHPublicKey": new_key().line,
        **changed,
    }
    return call(url, json.dumps(parameters).encode())


def refusal(answer: requests.Response) -> tuple[str, str]:
    assert answer.status_code >= 400
    body = answer.json()
    return body["__type"], body["Message"]


@pytest.mark.parametrize("key", [new_key(), rsa_ssh_key(2048), rsa_ssh_key(4096)])
def test_a_pushed_key_is_in_the_metadata_for_60_seconds(
    instance: Instance, url: str, key: SSHKey
) -> None:
    instance.metadata.now = 1738233600.0
    answer = push(url, SSHPublicKey=key.line + " alice@laptop\n")
    assert answer.status_code == 200
    assert answer.json()["Success"] is True
    status, block = instance.metadata.get(ACTIVE_KEYS + "alice/")
    assert status == 200
    lines = block.decode().split("\n")
    assert lines[:5] == [
        "#Timestamp=1738233660",
        "#Instance=i-0123456789abcdef0",
        f"#Caller={PRINCIPAL.arn}",
        f"#Request={answer.json()['RequestId']}",
        key.line + " alice@laptop",
    ]
    instance.metadata.now = 1738233659.9
    assert instance.metadata.get(ACTIVE_KEYS + "alice/")[0] == 200
    instance.metadata.now = 1738233660.0
    assert instance.metadata.get(ACTIVE_KEYS + "alice/")[0] == 404


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("InstanceId", None),
        ("InstanceId", 7),
        ("InstanceId", "i-0123456"),
        ("InstanceId", "i-0123456789ABCDEF0"),
        ("InstanceId", "i-0123456789abcdef0\n"),
        ("InstanceOSUser", ""),
        ("InstanceOSUser", "x" * 33),
        ("InstanceOSUser", "al ice"),
        ("InstanceOSUser", "../root"),
        ("InstanceOSUser", "12345"),
        ("SSHPublicKey", "ssh-ed25519 AAAA"),
        ("SSHPublicKey", "ssh-ed25519 " + "A" * 80),
        pytest.param("SSHPublicKey", new_key("ecdsa-sha2-nistp256").line, id="ecdsa"),
        pytest.param("SSHPublicKey", rsa_ssh_key(1024).line, id="rsa-1024"),
        pytest.param("SSHPublicKey", new_key().line + "\n" + new_key().line, id="two-keys"),
        pytest.param("SSHPublicKey", 'command="id" ' + new_key().line, id="options"),
        ("AvailabilityZone", "us-east"),
    ],
)
def test_a_parameter_that_the_model_rules_out_is_refused_by_its_name(
    instance: Instance, url: str, parameter: str, value: object
) -> None:
    code, message = refusal(push(url, **{parameter: value}))
    assert code == "InvalidArgsException"
    assert parameter in message
    assert instance.metadata.keys == {}


@pytest.mark.parametrize("user", ["a", "alice", "a.b@c-d_e", "host$", "123abc", "x" * 32])
def test_user_names_of_every_form_are_taken(url: str, user: str) -> None:
    assert push(url, InstanceOSUser=user).status_code == 200


def test_each_documented_error_has_its_cause(instance: Instance, url: str) -> None:
    def code(**changed: object) -> str:
        return refusal(push(url, **changed))[0]

    assert code(InstanceId="i-0123456789abcdef1") == "EC2InstanceNotFoundException"
    assert code(AvailabilityZone="us-east-1f") == "EC2InstanceNotFoundException"
    instance.state = "stopped"
    assert code() == "EC2InstanceStateInvalidException"
    instance.state, instance.reachable = "running", False
    assert code() == "EC2InstanceUnavailableException"
    instance.reachable = True
    assert push(url, AvailabilityZone="us-east-1a").status_code == 200


def test_what_is_no_call_of_the_api_is_refused(url: str) -> None:
    assert refusal(call(url, b"{"))[0] == "SerializationException"
    assert refusal(call(url, b"[]"))[0] == "InvalidArgsException"
    assert refusal(call(url, b"{}", operation="SendFlowers"))[0] == "UnknownOperationException"
    assert refusal(call(url, b"", method="GET"))[0] == "UnknownOperationException"
    serial = call(url, b"{}", operation="SendSerialConsoleSSHPublicKey")
    assert refusal(serial)[0] == "SerialConsoleAccessDisabledException"


def test_a_call_that_nobody_known_signed_is_refused_and_leaves_no_record(
    url: str, instance: Instance, trail: Trail
) -> None:
    assert refusal(call(url, b"{}", who=STRANGER))[0] == "UnrecognizedClientException"
    assert refusal(call(url, b"{}", who=LIAR))[0] == "InvalidSignatureException"
    unsigned = requests.post(url, headers={"X-Amz-Target": TARGET + "SendSSHPublicKey"}, timeout=30)
    assert refusal(unsigned)[0] == "MissingAuthenticationTokenException"
    assert instance.metadata.keys == {}
    assert trail.records() == []


def test_calls_beyond_the_rate_are_throttled_until_time_has_passed(
    serve: Callable[[Throttle], str],
) -> None:
    now = 1000.0
    url = serve(Throttle(2.0, 3, lambda: now))
    assert [push(url).status_code for _ in range(3)] == [200, 200, 200]
    assert refusal(push(url)) == ("ThrottlingException", "Rate exceeded")
    now += 0.5
    assert push(url).status_code == 200
    assert push(url).status_code == 400


def test_every_push_has_its_record_with_the_request_id_of_the_key(
    url: str, instance: Instance, trail: Trail
) -> None:
    key = new_key()
    answer = push(url, SSHPublicKey=key.line).json()
    push(url, InstanceId="i-0123456789abcdef1")
    granted, refused = trail.records()
    (block,) = instance.metadata.keys["alice"]
    assert granted["requestID"] == answer["RequestId"] == block.request
    assert granted["eventName"] == "SendSSHPublicKey"
    assert granted["sourceIPAddress"] == "127.0.0.1"
    assert granted["requestParameters"] == {
        "instanceId": "i-0123456789abcdef0",
        "osUser": "alice",
        "SSHKey": {"publicKey": key.line},
    }
    assert "errorCode" not in granted
    identity = granted["userIdentity"]
    assert isinstance(identity, dict)
    assert identity["type"] == "AssumedRole"
    assert identity["arn"] == block.caller == PRINCIPAL.arn
    issuer = identity["sessionContext"]["sessionIssuer"]
    assert issuer["arn"] == "arn:aws:iam::123456789012:role/Developer"
    assert refused["errorCode"] == "EC2InstanceNotFoundException"
    assert refused["responseElements"] is None


def test_the_limits_are_those_of_the_model_that_the_aws_cli_carries() -> None:
    try:
        loaders = importlib.import_module("awscli.botocore.loaders")
    except ModuleNotFoundError:
        # Older releases have botocore as a package of its own.
        loaders = importlib.import_module("botocore.loaders")
    model = loaders.Loader().load_service_model("ec2-instance-connect", "service-2")
    request = model["shapes"]["SendSSHPublicKeyRequest"]
    assert set(request["members"]) == set(SHAPES)
    for name, shape in SHAPES.items():
        published = model["shapes"][name]
        assert (published["min"], published["max"]) == (shape.least, shape.most)
        assert published.get("pattern") == shape.pattern
        assert (name in request["required"]) is shape.required


def test_the_aws_cli_pushes_a_key(instance: Instance, url: str, tmp_path: Path) -> None:
    public_key = tmp_path / "key.pub"
    public_key.write_text(new_key().line + " alice@laptop\n")
    environment = {
        "AWS_ENDPOINT_URL": url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": PRINCIPAL.access_key_id,
        "AWS_SECRET_ACCESS_KEY": PRINCIPAL.secret_access_key,
    }
    command = send_ssh_public_key_command(instance.id, "alice", public_key)
    result = run_aws(command, environment)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["Success"] is True
    (block,) = instance.metadata.keys["alice"]
    assert block.request == answer["RequestId"] == str(uuid.UUID(answer["RequestId"]))
    assert isinstance(block.expires, int)
    assert block.expires <= time.time() + 60

    command = send_ssh_public_key_command("i-0123456789abcdef1", "alice", public_key)
    result = run_aws(command, environment)
    assert result.returncode != 0
    assert "(EC2InstanceNotFoundException)" in result.stderr
