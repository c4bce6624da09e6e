"""What is asked again, and how often; one packet lost or one 503 is no outage."""

import errno
import gc
import weakref
from collections.abc import Iterator

import pytest

from eic_agent.errors import MetadataUnavailable, MetadataUnreachable
from eic_agent.metadata.client import MetadataClient
from eic_agent.metadata.deadline import Deadline
from eic_agent.metadata.wire import Wire
from eic_sandbox.simulator import MetadataSimulator, faults
from eic_sandbox.simulator.simulator import TOKEN_PATH
from tests.metadata.service import PLENTY_S, REGION, MakeClient, plenty

ATTEMPTS = 6
PASSING = [faults.status(code) for code in (429, 500, 502, 503, 504)]
LOST = [faults.drop(size) for size in (0, 1, 30, 120)]


@pytest.mark.parametrize("path", [TOKEN_PATH, REGION])
@pytest.mark.parametrize("fault", PASSING + LOST)
@pytest.mark.parametrize("kept_alive", [True, False])
def test_a_fault_that_passes_costs_nothing_but_another_request(
    kept_alive: bool,
    fault: faults.Fault,
    path: str,
    sim: MetadataSimulator,
    client: MetadataClient,
) -> None:
    sim.keep_alive = kept_alive
    client.domain(plenty())
    sim.revoke_tokens()
    before = sim.requests[path]
    sim.faults[path] = faults.times(2, fault)
    assert client.region(plenty()) == "us-east-1"
    # Each request with the revoked token is refused first, but for those that meet the fault.
    assert sim.requests[path] - before == (4 if path == REGION else 3)


@pytest.mark.parametrize("path", [TOKEN_PATH, REGION])
def test_silence_is_waited_for_once_and_then_asked_again_over_a_new_connection(
    path: str, sim: MetadataSimulator, url: str, make: MakeClient
) -> None:
    client = make(url, timeout_s=0.5)
    if path == REGION:
        client.domain(plenty())
    sim.faults[path] = faults.times(1, faults.silence())
    accepted = sim.server.connections_accepted
    assert client.region(plenty()) == "us-east-1"
    assert sim.requests[path] == 2
    assert sim.server.connections_accepted == accepted + (1 if path == REGION else 2)


@pytest.mark.parametrize("code", [400, 403, 404, 405, 410, 418, 501, 505, 302, 204])
def test_what_would_be_answered_the_same_is_not_asked_again(
    code: int, sim: MetadataSimulator, client: MetadataClient
) -> None:
    sim.faults[TOKEN_PATH] = faults.status(code)
    with pytest.raises(MetadataUnavailable, match=f"answered {code}"):
        client.domain(plenty())
    assert sim.requests == {TOKEN_PATH: 1}


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9, 8\r\n\r\nus-west-2"]
)
def test_what_is_no_http_is_not_asked_again(
    answer: bytes, sim: MetadataSimulator, client: MetadataClient
) -> None:
    sim.faults[TOKEN_PATH] = faults.raw(answer)
    with pytest.raises(MetadataUnavailable, match="no proper HTTP"):
        client.domain(plenty())
    assert sim.requests == {TOKEN_PATH: 1}


@pytest.mark.parametrize("fault", [PASSING[3], LOST[0], LOST[2]])
def test_it_gives_up_in_the_end(
    fault: faults.Fault, sim: MetadataSimulator, client: MetadataClient
) -> None:
    client.domain(plenty())
    sim.faults[REGION] = fault
    with pytest.raises(MetadataUnreachable, match=f"GET http://.*{REGION}: .*answer"):
        client.region(plenty())
    assert sim.requests[REGION] == ATTEMPTS


def test_it_gives_up_when_there_is_no_time_for_another_pause(
    sim: MetadataSimulator, url: str, make: MakeClient
) -> None:
    client = make(url, jitter=lambda: 2e4)  # a first pause of a quarter hour
    client.domain(plenty())
    sim.faults[REGION] = faults.status(503)
    with pytest.raises(MetadataUnreachable, match="answered 503"):
        client.region(plenty())
    assert sim.requests[REGION] == 1


def test_pauses_grow_and_differ(
    sim: MetadataSimulator, url: str, make: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("eic_agent.metadata.client.time.sleep", slept.append)
    dice = iter([0.0, 0.5, 1.0, 0.5, 0.5])
    sim.faults[TOKEN_PATH] = faults.status(503)
    with pytest.raises(MetadataUnreachable):
        make(url, jitter=lambda: next(dice)).region(plenty())
    assert slept == pytest.approx([0.025, 0.1, 0.3, 0.3, 0.5])


def test_a_refused_connection_is_tried_again(make: MakeClient, dead_url: str) -> None:
    client = make(dead_url)
    with pytest.raises(MetadataUnreachable, match="Connection refused"):
        client.region(plenty())
    assert client.requests_sent == 0


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EMFILE, errno.ENETUNREACH])
def test_what_this_machine_does_not_let_out_is_not_tried_again(
    code: int, make: MakeClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled = 0

    def refuse(self: Wire, address: object) -> None:
        nonlocal dialled
        dialled += 1
        raise OSError(code, "not from here")

    monkeypatch.setattr(Wire, "__init__", refuse)
    with pytest.raises(MetadataUnavailable, match="not from here") as caught:
        make(url).region(plenty())
    assert not isinstance(caught.value, MetadataUnreachable)
    assert dialled == 1


def test_a_connection_that_died_silently_costs_its_fellows_too(
    sim: MetadataSimulator, url: str, make: MakeClient
) -> None:
    """Each of them would cost a request the time to find out."""
    client = make(url, timeout_s=0.5)
    client.domain(plenty())
    service = client._service
    pool = weakref.ref(service._adapter.pool)
    sim.faults[REGION] = faults.times(1, faults.silence())
    assert client.region(Deadline.after(PLENTY_S)) == "us-east-1"
    gc.collect()
    assert pool() is None, "kept, and so are its connections"


def test_a_request_that_begins_as_connections_are_dropped_goes_on(
    client: MetadataClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.domain(plenty())
    service = client._service
    take_pool = service._adapter.get_connection_with_tls_context

    def overtaken(*args: object, **kwargs: object) -> object:
        pool = take_pool(*args, **kwargs)
        service._drop_connections()
        return pool

    monkeypatch.setattr(service._adapter, "get_connection_with_tls_context", overtaken)
    assert client.region(plenty()) == "us-east-1"


def test_it_says_what_went_wrong_first_and_how_often_it_asked(
    sim: MetadataSimulator, client: MetadataClient
) -> None:
    client.domain(plenty())
    dice = iter(range(ATTEMPTS))

    def differently(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
        answer.status = 503 if next(dice) == 0 else 429
        yield answer.raw()

    sim.faults[REGION] = differently
    told = rf"answered 503 \({ATTEMPTS} attempts; the last: GET .*answered 429\)"
    with pytest.raises(MetadataUnreachable, match=told):
        client.region(plenty())


@pytest.mark.parametrize("path", [TOKEN_PATH, REGION])
def test_silence_to_the_deadline_begins_an_outage_for_those_who_come_after(
    path: str, sim: MetadataSimulator, url: str, make: MakeClient
) -> None:
    client = make(url, timeout_s=0.4)
    if path == REGION:
        client.domain(plenty())
    sim.faults[path] = faults.silence()
    with pytest.raises(MetadataUnreachable, match=r"out of time after 0.4 s"):
        client.region(Deadline.after(1.0))
    asked = sim.requests.total()
    with pytest.raises(MetadataUnavailable, match="not asked again yet"):
        client.region(Deadline.after(1.0))
    assert sim.requests.total() == asked
