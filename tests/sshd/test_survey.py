"""What is not easily seen with a whole configuration around it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from eic_agent.sshd import asking
from eic_agent.sshd.asking import Sshd
from eic_agent.sshd.files import Tree
from eic_agent.sshd.launch import ProgramFailed
from eic_agent.sshd.survey import SshdPaths, System, survey, unsafe, why_not_first
from tests.support import root


def test_a_program_of_root_alone_is_safe_by_every_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/usr/bin/env")
    assert unsafe(Path("/usr/bin/env")) is None
    assert unsafe(tmp_path / "link") is None


def test_a_program_that_others_could_change_is_not_safe(tmp_path: Path) -> None:
    """The directories above are those of this test, so only the reason named first counts."""
    program = tmp_path / "program"
    assert unsafe(program) == f"{program}: No such file or directory"
    program.mkdir()
    assert unsafe(program) == f"{program} is not a regular file"
    program.rmdir()
    program.touch()
    if os.geteuid() == 0:
        program.chmod(0o720)
        assert unsafe(program) == f"{program} can be written by others than its owner"
        program.chmod(0o755)
        os.chown(program, 1234, 0)
    assert unsafe(program) == f"{program} is not owned by root"


def test_a_directory_that_others_could_change_spoils_what_is_in_it(tmp_path: Path) -> None:
    root()
    (tmp_path / "open/inner").mkdir(parents=True)
    (tmp_path / "open").chmod(0o775)
    (tmp_path / "open/inner/program").touch(0o755)
    assert unsafe(tmp_path / "open/inner/program") == (
        f"{tmp_path}/open can be written by others than its owner"
    )


def test_a_command_that_sshd_cannot_split_asks_nobody() -> None:
    assert not System().asks_us(f"{SshdPaths().client} 'open")
    assert System().asks_us(f"/usr/bin/env --chain {SshdPaths().client} %u")


def test_a_drop_in_that_is_read_first_has_nothing_in_its_way(tmp_path: Path) -> None:
    (tmp_path / "main").write_text(f"Include {tmp_path}/d/*\nAuthorizedKeysCommand /x\n")
    drop_in = tmp_path / "d/10"
    changes = {drop_in: b"AuthorizedKeysCommand /ours\n"}
    assert why_not_first(Tree(tmp_path / "main", tmp_path, changes), drop_in) is None


@pytest.mark.parametrize(("looks", "stays"), [((False, False), False), ((False, True), True)])
def test_an_sshd_that_starts_while_we_tidy_finds_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: tuple[bool, bool], stays: bool
) -> None:
    wanted = tmp_path / "run-sshd"
    missing = f"Missing privilege separation directory: {wanted}"
    answers: Iterator[str | ProgramFailed] = iter(
        [ProgramFailed(missing), "authorizedkeyscommand none\n"]
    )

    def run(argv: list[str | Path]) -> str:
        if "ssh-keygen" in str(argv[0]):
            return ""
        answer = next(answers)
        if isinstance(answer, ProgramFailed):
            raise answer
        assert wanted.is_dir()
        return answer

    monkeypatch.setattr(asking, "run", run)
    (tmp_path / "main").touch()
    paths = SshdPaths(
        main=tmp_path / "main", drop_in=tmp_path / "d/10", proc=tmp_path, run=tmp_path
    )
    found = survey(System(paths))
    sshd = Sshd(found, tmp_path)
    assert sshd.effective(found.tree()).command is None
    seen = iter(looks)
    monkeypatch.setattr(sshd, "_runs", lambda: next(seen))
    sshd.tidy()
    assert wanted.is_dir() == stays
