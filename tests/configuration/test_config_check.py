"""`eic-agent config check` and `config show --origin`, run as an administrator runs them."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lookup.name_service import NameService

AMAZON = Path(__file__).parents[2] / "eic_agent/data/amazon-trust-services-roots.pem"
ROLE = "arn:aws:iam::123456789012:role/Admin"
ALICE = "arn:aws:sts::123456789012:assumed-role/Admin/alice"
RULES = f"""
[policy]
deny_groups = ["wheel"]
[[policy.rules]]
users = ["root"]
callers = ["{ROLE}"]
[[policy.rules]]
users = ["eve", "0"]
callers = []
"""


class Host:
    """A directory of files, in a place that everybody can enter, and another user database."""

    def __init__(self, directory: Path, database: NameService) -> None:
        self.directory = directory
        self.database = database
        directory.chmod(0o755)
        (directory / "config.d").mkdir(mode=0o755)
        self.write("config.toml", "")

    def write(self, name: str, content: str, mode: int = 0o644) -> Path:
        path = self.directory / name
        path.write_text(content)
        path.chmod(mode)
        return path

    def config(self, *arguments: str, user: int = 0) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "eic_agent", "--config", self.directory / "config.toml"]
        identity = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
        return subprocess.run(
            self.database.command(*identity, *map(str, command), "config", *arguments),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> NameService:
    return NameService(tmp_path_factory.mktemp("nss"))


@pytest.fixture
def host(database: NameService) -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="eic-config-") as directory:
        yield Host(Path(directory), database)


@pytest.mark.parametrize("name", ["config.d/50-fleet.toml", "anchors.pem", "config.d"])
def test_what_root_can_read_and_the_agent_cannot_is_an_error(host: Host, name: str) -> None:
    host.write("config.d/50-fleet.toml", f'[trust]\nanchors = "{host.directory}/anchors.pem"\n')
    host.write("anchors.pem", AMAZON.read_text())
    done = host.config("check")
    assert (done.returncode, done.stderr) == (0, "")
    path = host.directory / name
    path.chmod(0o700 if path.is_dir() else 0o600)
    done = host.config("check")
    assert (done.returncode, done.stdout) == (1, "")
    assert str(path) in done.stderr
    assert "Permission denied" in done.stderr


def test_anchors_that_hold_no_certificate_are_an_error(host: Host) -> None:
    host.write("config.toml", '[trust]\nanchors = "/nothing.pem"\n')
    done = host.config("check")
    assert done.returncode == 1
    assert "/nothing.pem" in done.stderr
    host.write("config.toml", '[trust]\nanchors = "/dev/null"\n')
    assert host.config("check").returncode == 1


def test_who_looks_with_other_eyes_than_the_agents_is_told(host: Host) -> None:
    assert "root can look as eic-agent" in host.config("check", user=2000).stderr
    assert host.config("check", user=999).stderr == ""


def test_names_that_nobody_has_and_ids_that_two_have_are_remarked(host: Host) -> None:
    host.write("config.d/a.toml", '[policy]\ndeny_users = ["root", "bob"]\nallow_groups = ["x"]\n')
    host.write("config.d/b.toml", '[[policy.rules]]\nusers = ["toor"]\ncallers = []\n')
    done = host.config("check")
    assert done.returncode == 0
    first, second = host.directory / "config.d/a.toml", host.directory / "config.d/b.toml"
    same = 'who has the same user id and is let in as the same user; "0" means both'
    assert done.stderr.splitlines() == [
        f"{first}: policy.deny_users has 'bob', whom the user database does not know",
        f"{first}: policy.allow_groups has 'x', a group that the user database does not know",
        f"{first}: policy.deny_users means 'root' and not 'toor', {same}",
        f"{second}: policy.rules number 1: users means 'toor' and not 'root', {same}",
    ]
    host.write("config.d/a.toml", '[policy]\ndeny_users = ["0"]\n')
    host.write("config.d/b.toml", "")
    assert host.config("check").stderr == ""


@pytest.mark.parametrize(
    ("user", "caller", "status", "says"),
    [
        ("alice", ALICE, 0, f"alice, pushed by {ALICE}: accepted, as no rule decides"),
        ("toor", ALICE, 1, "caller-not-allowed, as {}: policy.rules number 2 decides"),
        ("toor", None, 0, "{}: policy.rules number 2 decides about who pushes them: nobody may"),
        ("eve", ALICE, 1, "eve: user-not-allowed: policy.deny_groups: the user is in group 4711"),
        ("bob", None, 1, "bob: user-not-allowed: the user database knows no such user"),
    ],
)
def test_a_policy_is_tried_without_a_push(
    host: Host, user: str, caller: str | None, status: int, says: str
) -> None:
    path = host.write("config.d/rules.toml", RULES)
    asked = ["--user", user, *(["--caller", caller] if caller else [])]
    done = host.config("check", *asked)
    assert done.returncode == status
    assert done.stdout.startswith("valid: ")
    assert says.format(path) in done.stdout


def test_a_policy_is_not_tried_where_the_user_database_hangs(host: Host) -> None:
    host.write("config.d/rules.toml", RULES.replace("wheel", "10"))
    done = host.config("check", "--user", "stuck0")
    assert done.returncode == 1
    assert "nothing can be decided: the user database" in done.stderr


def test_a_caller_is_tried_for_a_user_only_and_must_be_one(host: Host) -> None:
    assert host.config("check", "--caller", ALICE).returncode == 2
    done = host.config("check", "--user", "alice", "--caller", "alice\x1b")
    assert "'alice\\x1b', as a caller, is no ARN" in done.stderr
    assert (done.stdout + done.stderr).replace("\n", "").isprintable()


def test_the_origin_of_each_value_is_shown(host: Host) -> None:
    path = host.write("config.d/a.toml", "[imds]\ntimeout_s = 2\n")
    done = host.config("show", "--origin")
    assert done.returncode == 0
    assert f"timeout_s = 2.0  # {path}\n" in done.stdout
    assert "deadline_s = 4.0  # the default\n" in done.stdout
    assert "#" not in host.config("show").stdout
