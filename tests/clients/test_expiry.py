"""After a key's 60 seconds each client says what it always says where a key is not accepted."""

import time

import pytest

from eic_sandbox.instance import KEY_LIFETIME_S
from tests.clients.clients import CLIENTS, PERMISSION_DENIED, Client
from tests.clients.conftest import Used
from tests.clients.late import Late
from tests.clients.site import Site


def wait_until(moment: float) -> None:
    time.sleep(max(0.0, moment + 1.0 - time.time()))


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_is_refused_with_its_own_message_once_its_key_has_expired(
    site: Site, used: dict[str, Used], client: Client
) -> None:
    if client.name not in used:
        # This file is run alone: the login that would have come before happens now.
        identity = site.new_identity()
        for number in client.instances:
            site.push(identity, site.sandbox.instances[number])
        ends = time.time() + KEY_LIFETIME_S
        assert client.visit(site, identity).ok
        used[client.name] = Used(identity, ends)
    wait_until(used[client.name].ends)
    outcome = client.visit(site, used[client.name].identity)
    assert not outcome.ok
    assert client.denied in outcome.said


@pytest.mark.parametrize("name", ["mssh", "msftp"])
def test_mssh_and_msftp_pass_on_what_ssh_says_once_their_key_has_expired(
    late: Late, name: str
) -> None:
    wait_until(late.keys_end)
    outcome = late.release(name)
    assert not outcome.ok
    assert PERMISSION_DENIED in outcome.said
