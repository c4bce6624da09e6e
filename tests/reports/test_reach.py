"""What `config check` says of an endpoint that the unit does not let the service reach."""

from pathlib import Path

import pytest

from eic_agent.reports.reach import UNIT, remarks, unit_properties

ROOT = Path(__file__).parents[2]
ALLOWED = next(
    line.removeprefix("IPAddressAllow=")
    for line in (ROOT / "systemd" / UNIT).read_text().splitlines()
    if line.startswith("IPAddressAllow=")
)
# As systemd shows IPAddressDeny=any.
SHOWN = {"LoadState": "loaded", "IPAddressAllow": ALLOWED, "IPAddressDeny": "::/0 0.0.0.0/0"}


@pytest.mark.parametrize("endpoint", ["auto", "ipv4", "ipv6", "http://[fd00:ec2::254]:80"])
def test_what_the_unit_lets_through_needs_no_remark(endpoint: str) -> None:
    assert remarks(endpoint, SHOWN) == ()


@pytest.mark.parametrize(
    ("endpoint", "line"),
    [
        ("http://192.0.2.1:1338", "IPAddressAllow=192.0.2.1"),
        ("http://[2001:db8::1]", "IPAddressAllow=2001:db8::1"),
        ("http://localhost:1338", "IPAddressAllow=127.0.0.1 ::1"),
    ],
)
def test_another_address_needs_a_line_in_the_unit(endpoint: str, line: str) -> None:
    (remark,) = remarks(endpoint, SHOWN)
    assert f"`{line}`" in remark
    assert f"`systemctl edit {UNIT}`" in remark
    allowed = f"{ALLOWED} {line.removeprefix('IPAddressAllow=')}"
    assert remarks(endpoint, {**SHOWN, "IPAddressAllow": allowed}) == ()


@pytest.mark.parametrize(
    "unit",
    [
        {},
        {**SHOWN, "LoadState": "not-found"},
        {**SHOWN, "IPAddressDeny": ""},
        {**SHOWN, "IPAddressAllow": "192.0.2.0/24 fe80::/64"},
    ],
)
def test_where_nothing_is_in_the_way_nothing_is_said(unit: dict[str, str]) -> None:
    assert remarks("http://192.0.2.1", unit) == ()


def test_a_machine_without_systemd_has_no_such_unit(tmp_path: Path) -> None:
    assert unit_properties(tmp_path / "systemctl") == {}


def test_systemd_is_asked_for_the_unit_as_it_is_with_its_drop_ins(tmp_path: Path) -> None:
    """A program in systemctl's place: tests/machine asks the real one."""
    systemctl = tmp_path / "systemctl"
    systemctl.write_text('#!/bin/sh\necho "LoadState=loaded"; echo "IPAddressAllow=$*"\n')
    systemctl.chmod(0o755)
    shown = unit_properties(systemctl)
    assert shown["LoadState"] == "loaded"
    assert shown["IPAddressAllow"] == f"show -p LoadState,IPAddressAllow,IPAddressDeny {UNIT}"
