"""What the documents show is what happens: their commands are run, and their output compared."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eic_sandbox import network
from eic_sandbox.guide import guide
from tests import support
from tests.clients.clients import CLIENTS
from tests.clients.site import REPOSITORY, TIMEOUT_S, Site

CLIENTS_DOC = (REPOSITORY / "docs/clients.md").read_text()
SANDBOX_DOC = (REPOSITORY / "docs/sandbox.md").read_text()
# What is another in every run, and what stands for it.
VARYING = (
    (r"SHA256:[A-Za-z0-9+/]{43}", "SHA256:..."),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
    (r"\b(3[2-9]|4\d|5\d|6[0-5])\d{3}\b", "PORT"),
    (r"\S*/box/", "box/"),
    (r"\S*/bin/python\S*", "python"),
    (r"^(Remote working directory: ).*$", r"\1..."),
)


@dataclass
class Step:
    """One command of a document and the output that it shows."""

    command: str
    shown: list[str] = field(default_factory=list)


def steps(document: str) -> Iterator[Step]:
    """Yield the commands in the console blocks; a backslash continues one on the next line."""
    for block in re.findall(r"^```console\n(.*?)^```$", document, re.MULTILINE | re.DOTALL):
        step = None
        for line in block.splitlines():
            if step is not None and step.command.endswith("\\"):
                step.command += "\n" + line
            elif line.startswith("$ "):
                if step is not None:
                    yield step
                step = Step(line[2:])
            elif step is not None:
                step.shown.append(line)
        if step is not None:
            yield step


def scripts(document: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of the Python files; the first line is a comment that names the file."""
    for block in re.findall(r"^```python\n(.*?)^```$", document, re.MULTILINE | re.DOTALL):
        yield block.splitlines()[0].removeprefix("# "), block


def plain(text: str) -> str:
    for pattern, stands_for in VARYING:
        text = re.sub(pattern, stands_for, text, flags=re.MULTILINE)
    return text.strip() + "\n"


def as_shown(shown: str, said: str) -> bool:
    """Compare; a line `...` stands for any lines."""
    parts = [re.escape(part) for part in re.split(r"^\.\.\.$\n?", plain(shown), flags=re.MULTILINE)]
    return re.fullmatch(r"(?:.*\n)?".join(parts), plain(said), re.DOTALL) is not None


def test_comparing_forgives_what_varies_and_nothing_else() -> None:
    assert as_shown("a\n...\nd", "a\nb\nc\nd")
    assert as_shown("a\n...\nd", "a\nd")
    assert as_shown("a\n...", "a\nb\nc")
    assert as_shown("port 40000", "port 50000")
    assert not as_shown("a\n...\nd", "a\nb\nc\ne")
    assert not as_shown("ec2-user", "root")


@pytest.fixture
def desk(site: Site, tmp_path: Path) -> Path:
    """A directory as somebody has it who follows the document."""
    if problem := network.obstacle():
        support.lacking(f"network namespaces ({problem})", "run the tests as root")
    (tmp_path / "box").symlink_to(site.sandbox.directory)
    for name, text in scripts(CLIENTS_DOC):
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_commands_for_each_client_print_what_the_document_shows(site: Site, desk: Path) -> None:
    environment = {**site.environment(), "PYTHONPATH": str(REPOSITORY), "ANSIBLE_HOME": str(desk)}
    environment["PYTHONWARNINGS"] = "ignore"
    environment["ANSIBLE_SSH_CONTROL_PATH_DIR"] = "/tmp"
    count = 0
    for step in steps(CLIENTS_DOC):
        written = site.run(["bash", "-c", step.command], environment, desk).said
        assert as_shown("\n".join(step.shown), written), f"{step.command}\n{written}"
        count += 1
    assert count > 15


def test_the_message_of_every_client_for_an_expired_key_is_in_the_document() -> None:
    for client in CLIENTS:
        assert client.denied in CLIENTS_DOC


def test_the_lines_for_ci_start_a_sandbox_use_it_and_end_it(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```$", SANDBOX_DOC, re.MULTILINE | re.DOTALL)
    make, *lines = block.splitlines()
    assert make == "make .venv/.ready"
    here = "\n".join(lines).replace(".venv/bin/python", sys.executable)
    here = here.replace(".venv/bin/aws", str(Path(sys.executable).with_name("aws")))
    done = subprocess.run(
        ["bash", "-c", here],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "AWS_PAGER": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == '"arn:aws:sts::123456789012:assumed-role/Developer/alice"\n'


def test_the_document_shows_what_the_sandbox_prints(site: Site, desk: Path) -> None:
    blocks = re.findall(r"^```text\n(.*?)^```$", SANDBOX_DOC, re.MULTILINE | re.DOTALL)
    assert as_shown(blocks[0], guide(site.sandbox))
    exports = re.findall(r"^export (\w+)=(.*)$", blocks[1], re.MULTILINE)
    assert [name for name, _ in exports] == list(site.sandbox.environment())
    assert blocks[1].endswith("\nready\n")
