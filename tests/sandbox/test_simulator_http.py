"""Over HTTP the simulator behaves as IMDSv2 does, and misbehaves only where it is told to."""

import email.utils
import threading
from collections.abc import Iterator

import pytest
import requests

from eic_sandbox.simulator import MetadataSimulator, faults, new_key
from eic_sandbox.simulator.simulator import ACTIVE_KEYS, META, TOKEN_PATH

TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"
INSTANCE_ID = META + "instance-id/"


@pytest.fixture
def sim() -> MetadataSimulator:
    return MetadataSimulator()


@pytest.fixture
def url(sim: MetadataSimulator) -> Iterator[str]:
    with sim.serve() as url:
        yield url


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def with_token(url: str, session: requests.Session, ttl_s: int = 60) -> requests.Session:
    answer = session.put(url + TOKEN_PATH, headers={TTL: str(ttl_s)})
    assert answer.status_code == 200
    assert answer.headers[TTL] == str(ttl_s)
    session.headers[TOKEN] = answer.text
    return session


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_token_opens_every_document(
    sim: MetadataSimulator, session: requests.Session, host: str
) -> None:
    with sim.serve(host) as url:
        with_token(url, session)
        assert session.get(url + INSTANCE_ID).text == sim.instance_id
        assert session.get(url + META + "placement/region").text == "us-east-1"
        assert session.get(url + ACTIVE_KEYS + "nobody/").status_code == 404


@pytest.mark.parametrize("ttl", ["0", "21601", "-1", "ten", ""])
def test_a_ttl_out_of_range_is_refused(url: str, session: requests.Session, ttl: str) -> None:
    assert session.put(url + TOKEN_PATH, headers={TTL: ttl}).status_code == 400
    assert session.put(url + TOKEN_PATH).status_code == 400


def test_a_forwarded_request_gets_no_token(url: str, session: requests.Session) -> None:
    headers = {TTL: "60", "X-Forwarded-For": "192.0.2.1"}
    assert session.put(url + TOKEN_PATH, headers=headers).status_code == 403


def test_without_a_token_that_is_valid_now_there_is_nothing(
    sim: MetadataSimulator, url: str, session: requests.Session
) -> None:
    assert session.get(url + INSTANCE_ID).status_code == 401
    assert session.get(url + INSTANCE_ID, headers={TOKEN: "guessed"}).status_code == 401
    sim.now = 1_900_000_000.0
    with_token(url, session)
    assert session.get(url + INSTANCE_ID).status_code == 200
    sim.revoke_tokens()
    assert session.get(url + INSTANCE_ID).status_code == 401
    with_token(url, session, ttl_s=10)
    sim.now += 10
    assert session.get(url + INSTANCE_ID).status_code == 401


def test_head_has_the_headers_of_get_and_no_body(url: str, session: requests.Session) -> None:
    with_token(url, session)
    head, get = session.head(url + INSTANCE_ID), session.get(url + INSTANCE_ID)
    assert head.headers["Content-Length"] == get.headers["Content-Length"] != "0"
    assert head.content == b""


def test_the_date_header_can_be_off(
    sim: MetadataSimulator, url: str, session: requests.Session
) -> None:
    sim.now = 1_900_000_000.0
    sim.date_offset_s = -3600.0
    date = session.get(url).headers["Date"]
    assert email.utils.parsedate_to_datetime(date).timestamp() == 1_900_000_000.0 - 3600.0


def test_one_connection_serves_many_requests_unless_told_otherwise(
    sim: MetadataSimulator, url: str, session: requests.Session
) -> None:
    with_token(url, session)
    for _ in range(3):
        session.get(url + INSTANCE_ID)
    assert sim.server.connections_accepted == 1
    assert sim.requests[INSTANCE_ID] == 3
    sim.keep_alive = False
    for _ in range(3):
        session.get(url + INSTANCE_ID)
    assert sim.server.connections_accepted == 3


def test_paths_are_counted_and_looked_up_percent_decoded(
    sim: MetadataSimulator, url: str, session: requests.Session
) -> None:
    with_token(url, session)
    sim.push("a$b@c", new_key())
    assert session.get(url + ACTIVE_KEYS + "a%24b%40c/").status_code == 200
    assert sim.requests[ACTIVE_KEYS + "a$b@c/"] == 1
    assert sim.log[-1].path == ACTIVE_KEYS + "a%24b%40c/"


def test_requests_in_progress_together_are_counted(sim: MetadataSimulator, url: str) -> None:
    sim.token_required = False
    together = threading.Barrier(4)

    def fault(answer: faults.Answer, wait: faults.Wait) -> Iterator[bytes]:
        together.wait(30)
        yield answer.raw()

    sim.faults[INSTANCE_ID] = fault
    threads = [
        threading.Thread(target=requests.get, args=(url + INSTANCE_ID,), kwargs={"timeout": 30})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sim.most_concurrent[INSTANCE_ID] == 4


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.drop(), requests.ConnectionError),
        (faults.drop(after_bytes=600), requests.exceptions.ChunkedEncodingError),
        (faults.silence(), requests.ReadTimeout),
        (faults.raw(b"SSH-2.0-OpenSSH_9.9\r\n"), requests.ConnectionError),
    ],
)
def test_a_fault_breaks_the_exchange(
    sim: MetadataSimulator, url: str, fault: faults.Fault, error: type[Exception]
) -> None:
    sim.token_required = False
    sim.documents[INSTANCE_ID] = b"A" * 1000
    sim.faults[INSTANCE_ID] = fault
    with pytest.raises(error):
        requests.get(url + INSTANCE_ID, timeout=0.2)


@pytest.mark.parametrize("fault", [faults.drip_headers(0.0), faults.drip_body(0.0)])
def test_dripping_changes_when_bytes_come_and_not_which(
    sim: MetadataSimulator, url: str, session: requests.Session, fault: faults.Fault
) -> None:
    with_token(url, session)
    sim.faults["*"] = fault
    assert session.get(url + INSTANCE_ID).text == sim.instance_id


def test_the_server_closes_while_it_is_dripping(sim: MetadataSimulator) -> None:
    sim.faults["*"] = faults.drip_body(3600.0)
    with sim.serve() as url, requests.get(url + TOKEN_PATH, stream=True, timeout=30) as answer:
        assert answer.status_code == 401


def test_other_faults_answer_something_else(
    sim: MetadataSimulator, url: str, session: requests.Session
) -> None:
    with_token(url, session)
    sim.faults[INSTANCE_ID] = faults.times(1, faults.status(503))
    assert session.get(url + INSTANCE_ID).status_code == 503
    assert session.get(url + INSTANCE_ID).status_code == 200
    sim.faults[INSTANCE_ID] = faults.redirect(url + META + "placement/region")
    assert session.get(url + INSTANCE_ID).text == sim.region
    sim.faults[INSTANCE_ID] = faults.compressed(b"0" * 1_000_000)
    answer = session.get(url + INSTANCE_ID)
    assert len(answer.content) == 1_000_000 > 100 * int(answer.headers["Content-Length"])
    for declared in (True, False):
        sim.faults[INSTANCE_ID] = faults.oversized(300_000, declared=declared)
        answer = session.get(url + INSTANCE_ID)
        assert len(answer.content) == 300_000
        assert ("Content-Length" in answer.headers) is declared
