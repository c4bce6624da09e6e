"""Options as sshd reads them; test_options_by_sshd.py asks a real sshd about the same ones."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eic_agent.configuration import keyoptions
from tests.configuration.options import INVALID, REFUSED, VALID


@pytest.mark.parametrize("option", VALID)
def test_an_option_that_sshd_reads_is_accepted(option: str) -> None:
    assert keyoptions.problems([option]) == []


@pytest.mark.parametrize("option", [*INVALID, *REFUSED])
def test_anything_else_is_named_in_the_problem(option: str) -> None:
    (problem,) = keyoptions.problems([option])
    assert problem.startswith(f"has {option!a}")


def test_all_options_are_accepted_together_but_for_those_that_stand_once() -> None:
    once = [option for option in VALID if not option.lower().startswith(("command=", "from="))]
    assert keyoptions.problems(once) == []
    assert keyoptions.problems(['command="a"', 'COMMAND="b"', 'from="a"', 'from="b"']) == [
        "has command 2 times; accepted is one",
        "has from 2 times; accepted is one",
    ]


def test_a_slip_of_the_pen_gets_a_suggestion() -> None:
    (problem,) = keyoptions.problems(["no-agent-forwardin"])
    assert problem.endswith("; did you mean no-agent-forwarding?")


def options_field(line: str) -> str:
    """Cut off the options as sshd does before it reads them."""
    quoted = False
    position = 0
    while position < len(line) and (quoted or line[position] not in " \t"):
        if line.startswith('\\"', position):
            position += 1
        elif line[position] == '"':
            quoted = not quoted
        position += 1
    return line[:position]


@given(
    st.tuples(
        st.sampled_from(["command=", "environment=", "restrict", "from=", ""]),
        st.text(st.sampled_from('a"\\, \t=\n.') | st.characters(), max_size=12),
        st.sampled_from(["", '"']),
    ).map(lambda parts: f"{parts[0]}{parts[2]}{parts[1]}{parts[2]}")
)
@example(r'command="\\"')
@example(r'command="\"')
def test_whatever_is_accepted_ends_where_the_key_begins(option: str) -> None:
    if not keyoptions.problems([option]):
        assert options_field(f"{option} ssh-ed25519 AAAA") == option
        assert options_field(f"restrict,{option},pty ssh-ed25519 AAAA") == f"restrict,{option},pty"
