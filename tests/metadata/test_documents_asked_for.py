"""What the client asks for, and what it makes of the answers."""

from collections.abc import Callable

import pytest

from eic_agent.errors import MetadataUnavailable, MetadataUnreachable, Reason, UntrustedMaterial
from eic_agent.metadata.client import MetadataClient
from eic_sandbox.simulator import MetadataSimulator, faults
from eic_sandbox.simulator.simulator import ACTIVE_KEYS, META, SIGNER_CERT, SIGNER_OCSP, SSH_KEYS
from tests.metadata.service import INSTANCE_ID, REGION, MakeClient, plenty, with_header


class TestDocuments:
    def test_every_document_is_asked_for_by_its_path(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        name = client.staple_names(plenty())[0]
        calls: dict[str, Callable[[], object]] = {
            META + "instance-id/": lambda: client.instance_id(plenty()),
            META + "placement/availability-zone/": lambda: client.availability_zone(plenty()),
            META + "placement/region": lambda: client.region(plenty()),
            META + "services/domain/": lambda: client.domain(plenty()),
            SSH_KEYS + "active-keys/alice/": lambda: client.active_keys("alice", plenty()),
            SSH_KEYS + "signer-cert/": lambda: client.signer_chain(plenty()),
            SSH_KEYS + "signer-ocsp/": lambda: client.staple_names(plenty()),
            SSH_KEYS + "signer-ocsp/" + name: lambda: client.staple(name, plenty()),
        }
        for path, call in calls.items():
            call()
            assert sim.log[-1].path == path

    def test_facts_are_stripped_text(self, sim: MetadataSimulator, client: MetadataClient) -> None:
        sim.documents[INSTANCE_ID] = b" i-0123456789abcdef0\r\n"
        assert client.instance_id(plenty()) == "i-0123456789abcdef0"
        assert client.availability_zone(plenty()) == "us-east-1a"
        assert client.region(plenty()) == "us-east-1"
        assert client.domain(plenty()) == "amazonaws.com"

    def test_a_region_may_be_missing(self, sim: MetadataSimulator, client: MetadataClient) -> None:
        sim.region = None
        assert client.region(plenty()) is None

    @pytest.mark.parametrize(
        "document",
        [b"", b" \n", b"i-\xc3\xa9", b"i-\x00", b"i-\x1b[2J", b"i-1\ni-2", b"\x7f", b"i" * 1025],
    )
    @pytest.mark.parametrize("path", [INSTANCE_ID, REGION])
    def test_no_line_of_printable_ascii_is_no_fact(
        self, path: str, document: bytes, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.documents[path] = document
        with pytest.raises(MetadataUnavailable, match=r"[ -~]+") as caught:
            client.instance_id(plenty()) if path == INSTANCE_ID else client.region(plenty())
        assert path in str(caught.value)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("status", [404, 403, 400, 405, 501, 505, 204, 206, 304])
    def test_any_other_status_is_no_document(
        self, status: int, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.faults[SIGNER_CERT] = faults.status(status)
        with pytest.raises(MetadataUnavailable, match=f"signer-cert/: answered {status}") as caught:
            client.signer_chain(plenty())
        assert not isinstance(caught.value, MetadataUnreachable)

    def test_active_keys_come_byte_for_byte(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        assert client.active_keys("alice", plenty()) is None
        sim.documents[ACTIVE_KEYS + "alice/"] = b"\r\n #\xff\x00\n\n"
        assert client.active_keys("alice", plenty()) == b"\r\n #\xff\x00\n\n"
        sim.documents[ACTIVE_KEYS + "alice/"] = b""
        assert client.active_keys("alice", plenty()) == b""

    @pytest.mark.parametrize(
        ("user", "segment"),
        [
            ("alice@corp.example", "alice@corp.example"),
            ("machine$", "machine$"),
            ("a-b_c.d~", "a-b_c.d~"),
            ("a/../b", "a%2F..%2Fb"),
            (".", "%2E"),
            ("..", "%2E%2E"),
            ("...", "%2E%2E%2E"),
            (".a", ".a"),
            ("%2F", "%252F"),
            ("%2e%2E", "%252e%252E"),
            ("a%", "a%25"),
            ("a b\t", "a%20b%09"),
            ("a?b#c;d&e=f+g:h", "a%3Fb%23c%3Bd%26e%3Df%2Bg%3Ah"),
            ("a\r\nX-Evil: 1", "a%0D%0AX-Evil%3A%201"),
            ("\0", "%00"),
            ("\\", "%5C"),
            ("gr\u00fc\u00df", "gr%C3%BC%C3%9F"),
            ("\udcff", "%ED%B3%BF"),
        ],
    )
    def test_a_user_name_is_one_segment_of_the_path_exactly_as_encoded(
        self, user: str, segment: str, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        client.active_keys(user, plenty())
        assert sim.log[-1].path == f"{ACTIVE_KEYS}{segment}/"

    def test_signer_and_staples(self, sim: MetadataSimulator, client: MetadataClient) -> None:
        assert client.signer_chain(plenty()) == b"".join(recipe.pem for recipe in sim.chain)
        names = client.staple_names(plenty())
        assert len(names) == 3
        assert all(client.staple(name, plenty()).startswith(b"\x30") for name in names)

    def test_a_service_without_a_list_of_staples_has_none(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.documents[SIGNER_OCSP] = None
        assert client.staple_names(plenty()) == ()

    def test_staple_names_are_separated_by_any_white_space_and_told_once(
        self, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.documents[SIGNER_OCSP] = b"\tAB12 x.y-z_0\r\n\nAB12\n" + b"a" * 128
        assert client.staple_names(plenty()) == ("AB12", "x.y-z_0", "a" * 128)

    @pytest.mark.parametrize(
        "document",
        [
            b"..",
            b"-",
            b"a/b",
            b"../user-data",
            b"a%2Fb",
            b"a?b",
            b"\xc3\xa9",
            b"\xb2",
            b"a\x00",
            b"a" * 129,
            b" ".join(b"%d" % n for n in range(17)),
        ],
    )
    def test_a_list_that_no_service_would_have_is_no_list_of_staples(
        self, document: bytes, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.documents[SIGNER_OCSP] = document
        with pytest.raises(UntrustedMaterial) as caught:
            client.staple_names(plenty())
        assert caught.value.reason is Reason.NO_VALID_STAPLE
        assert caught.value.detail.isprintable()

    def test_a_staple_may_be_wrapped(self, sim: MetadataSimulator, client: MetadataClient) -> None:
        sim.documents[SIGNER_OCSP + "A"] = b"MAA\r\nwAwoB\n BgoB\tBg==\n"
        assert client.staple("A", plenty()) == bytes.fromhex("300030030a01060a0106")

    @pytest.mark.parametrize(
        "document", [b"", b"\n", b"MAA", b"MA=A", b"M*AA", b"MAA\xff", b"-_-_"]
    )
    def test_a_staple_that_is_no_base64_is_untrusted(
        self, document: bytes, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.documents[SIGNER_OCSP + "A"] = document
        with pytest.raises(UntrustedMaterial) as caught:
            client.staple("A", plenty())
        assert caught.value.reason is Reason.NO_VALID_STAPLE

    def test_a_staple_that_is_gone_is_unavailable(self, client: MetadataClient) -> None:
        with pytest.raises(MetadataUnavailable, match="signer-ocsp/A: answered 404"):
            client.staple("A", plenty())


class TestClock:
    def test_the_offset_is_local_time_less_the_services(
        self, sim: MetadataSimulator, url: str, make: MakeClient
    ) -> None:
        sim.now = 1_700_000_000.0
        client = make(url, wall_clock=lambda: 1_700_000_090.5)
        before = client.clock_offset_s
        assert before is None
        client.region(plenty())
        assert client.clock_offset_s == 90.5
        sim.date_offset_s = 100.0
        client.active_keys("alice", plenty())
        assert client.clock_offset_s == -9.5

    def test_an_answer_without_a_date_leaves_the_offset_as_it_was(
        self, sim: MetadataSimulator, url: str, make: MakeClient
    ) -> None:
        sim.now = 1_700_000_000.0
        client = make(url, wall_clock=lambda: 1_700_000_090.5)
        client.region(plenty())
        sim.date_offset_s = None
        client.region(plenty())
        assert client.clock_offset_s == 90.5

    @pytest.mark.parametrize(
        "date",
        [
            "",
            "yesterday",
            "Fri, 99 Nov 2025 18:53:00 GMT",
            "Fri, 21 Foo 2025 18:53:00 GMT",
            "Fri, 21 Nov 2025 99:99:99 GMT",
            "Fri, 21 Nov 0000 00:00:00 GMT",
            "Fri, 21 Nov 2025 18:53:00 +99999999999999999",
            "9" * 5000,
        ],
    )
    def test_no_date_is_no_error(
        self, date: str, sim: MetadataSimulator, client: MetadataClient
    ) -> None:
        sim.faults["*"] = with_header("Date", date)
        assert client.region(plenty()) == "us-east-1"
        assert client.clock_offset_s is None or date.endswith("0000 00:00:00 GMT")
