"""Configuration files in a directory, as an administrator would write them."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eic_agent.configuration import schema
from eic_agent.configuration.config import (
    AgentConfig,
    Config,
    IdentityConfig,
    ImdsConfig,
    Loaded,
    LogConfig,
    load,
    show,
)
from eic_agent.errors import ConfigError
from eic_agent.lookup.keyblock import KEY_TYPES
from eic_agent.lookup.policy import CallerRule, KeyRules, Policy, UserRules
from eic_agent.lookup.trust import TrustRules
from tests.configuration.options import VALID


class Files:
    """A configuration directory; `main` and `drop_in` write files of it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "config.toml"
        self.directory = directory / "config.d"

    def main(self, text: str | bytes) -> "Files":
        return self._write(self.path, text)

    def drop_in(self, name: str, text: str | bytes) -> "Files":
        self.directory.mkdir(exist_ok=True)
        return self._write(self.directory / name, text)

    def _write(self, path: Path, text: str | bytes) -> "Files":
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o644)
        return self

    def load(self) -> Loaded:
        return load(self.path)

    @property
    def config(self) -> Config:
        loaded = self.load()
        assert loaded.warnings == ()
        return loaded.config

    @property
    def errors(self) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load()
        return str(caught.value).splitlines()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_without_any_file_every_default_holds(files: Files) -> None:
    assert files.load() == Loaded(Config(), warnings=(), files=())


def test_an_empty_file_changes_no_default(files: Files) -> None:
    assert files.main("").load() == Loaded(Config(), warnings=(), files=(files.path,))


def test_defaults_are_those_of_the_contract() -> None:
    assert Config() == Config(
        imds=ImdsConfig("auto", 1.0, 4.0),
        identity=IdentityConfig(Path("/sys")),
        trust=TrustRules("auto", "require", 3600.0),
        policy=Policy(
            KeyRules(
                max_lifetime_s=60,
                clock_skew_s=240,
                types=(
                    "ssh-ed25519",
                    "ssh-rsa",
                    "ecdsa-sha2-nistp256",
                    "ecdsa-sha2-nistp384",
                    "ecdsa-sha2-nistp521",
                    "sk-ssh-ed25519@openssh.com",
                    "sk-ecdsa-sha2-nistp256@openssh.com",
                ),
                min_rsa_bits=2048,
                options=(),
                export_caller=False,
            ),
            UserRules((), (), (), ()),
            (),
        ),
        agent=AgentConfig(0.0, ()),
        log=LogConfig("info"),
    )


def test_every_key_can_be_set(files: Files) -> None:
    files.main("""
        [imds]
        endpoint = "http://[fd00:ec2::254]:8080"
        timeout_s = 2
        deadline_s = 4.5
        [identity]
        sysfs_root = "/tmp/sys"
        regions = ["new-north-1=amazonaws.com"]
        [trust]
        anchors = "/etc/anchors.pem"
        revocation = "if-stapled"
        max_cache_s = 0
        [keys]
        max_lifetime_s = 0
        clock_skew_s = 10
        types = ["ssh-ed25519"]
        min_rsa_bits = 4096
        options = ["restrict", "pty"]
        export_caller = true
        [policy]
        allow_users = ["ec2-user", "admin*"]
        deny_users = ["root"]
        allow_groups = ["domain users"]
        deny_groups = ["nologin"]
        [[policy.rules]]
        users = ["ec2-user"]
        callers = ["arn:aws:iam::123456789012:role/Admin"]
        [[policy.rules]]
        users = ["*"]
        callers = []
        [agent]
        idle_exit_s = 0
        clients = ["alice", "DOMAIN\\\\bob"]
        [log]
        level = "debug"
    """)
    assert files.config == Config(
        imds=ImdsConfig("http://[fd00:ec2::254]:8080", 2.0, 4.5),
        identity=IdentityConfig(Path("/tmp/sys"), ("new-north-1=amazonaws.com",)),
        trust=TrustRules("/etc/anchors.pem", "if-stapled", 0.0),
        policy=Policy(
            KeyRules(0, 10, ("ssh-ed25519",), 4096, ("restrict", "pty"), export_caller=True),
            UserRules(("ec2-user", "admin*"), ("root",), ("domain users",), ("nologin",)),
            (
                CallerRule(("ec2-user",), ("arn:aws:iam::123456789012:role/Admin",)),
                CallerRule(("*",), ()),
            ),
        ),
        agent=AgentConfig(0.0, ("alice", "DOMAIN\\bob")),
        log=LogConfig("debug"),
    )


def test_every_key_of_the_schema_has_its_place_in_the_configuration() -> None:
    names = {table: set(keys) for table, keys in schema.TABLES.items()}
    fields = {
        name: {field.name for field in dataclasses.fields(kind)}
        for name, kind in {
            "imds": ImdsConfig,
            "identity": IdentityConfig,
            "trust": TrustRules,
            "keys": KeyRules,
            "policy": UserRules,
            "agent": AgentConfig,
            "log": LogConfig,
        }.items()
    }
    fields["policy"].add("rules")
    assert names == fields


# --- files ---


def test_later_files_win_key_by_key_in_the_order_of_their_names(files: Files) -> None:
    files.main('[imds]\ntimeout_s = 2\ndeadline_s = 3\n[log]\nlevel = "error"')
    files.drop_in("20-b.toml", "[imds]\ndeadline_s = 5")
    files.drop_in("10-a.toml", "[imds]\ndeadline_s = 4\n[keys]\nclock_skew_s = 1")
    loaded = files.load()
    assert loaded.config.imds == ImdsConfig(timeout_s=2.0, deadline_s=5.0)
    assert loaded.config.policy.keys.clock_skew_s == 1
    assert loaded.config.log.level == "error"
    assert loaded.files == (
        files.path,
        files.directory / "10-a.toml",
        files.directory / "20-b.toml",
    )


RULE = '[[policy.rules]]\nusers = ["{}"]\ncallers = []\n'


def test_a_later_list_replaces_the_earlier_one_and_that_is_told(files: Files) -> None:
    files.main('[policy]\nallow_users = ["a", "b"]\n[keys]\noptions = ["restrict"]')
    files.drop_in("a.toml", '[policy]\nallow_users = ["c"]\n[keys]\noptions = ["restrict"]')
    loaded = files.load()
    assert loaded.config.policy.users.allow_users == ("c",)
    assert loaded.notes == (
        f"{files.directory / 'a.toml'}: policy.allow_users replaces the list that {files.path} has",
    )


def test_deny_lists_add_up_and_rules_follow_each_other_in_the_order_of_the_files(
    files: Files,
) -> None:
    files.main('[policy]\ndeny_users = ["a", "b"]\n' + RULE.format("a") + RULE.format("b"))
    files.drop_in("10.toml", '[policy]\ndeny_groups = ["g"]\n' + RULE.format("c"))
    files.drop_in("20.toml", '[policy]\ndeny_users = ["b", "c"]\ndeny_groups = ["h"]')
    policy = files.config.policy
    assert policy.users.deny_users == ("a", "b", "c")
    assert policy.users.deny_groups == ("g", "h")
    assert policy.callers == tuple(CallerRule((user,), ()) for user in "abc")


def test_no_later_file_makes_a_list_void_that_forbids(files: Files) -> None:
    files.main('[policy]\ndeny_users = ["root"]\n' + RULE.format("root"))
    files.drop_in("a.toml", "[policy]\ndeny_users = []\nrules = []")
    loaded = files.load()
    assert loaded.config.policy.users.deny_users == ("root",)
    assert loaded.config.policy.callers == (CallerRule(("root",), ()),)
    drop_in = files.directory / "a.toml"
    assert loaded.notes == (
        f"{drop_in}: policy.deny_users is empty, which takes away nothing of earlier files",
        f"{drop_in}: policy.rules is empty, which takes away nothing of earlier files",
    )


def test_each_value_is_known_by_the_files_that_set_it(files: Files) -> None:
    files.main('[imds]\ntimeout_s = 2\n[policy]\ndeny_users = ["a"]\n' + RULE.format("a"))
    files.drop_in("a b.toml", "[imds]\ntimeout_s = 3")
    files.drop_in("c.toml", '[policy]\ndeny_users = ["b"]\n' + RULE.format("b") + RULE.format("c"))
    loaded = files.load()
    second, third = files.directory / "a b.toml", files.directory / "c.toml"
    assert loaded.origins == {
        "imds.timeout_s": (second,),
        "policy.deny_users": (files.path, third),
        "policy.rules": (files.path, third, third),
    }
    shown = show(loaded.config, loaded.origins)
    assert f"timeout_s = 3.0  # {second}\n" in shown
    assert f'deny_users = ["a", "b"]  # {files.path}, {third}\n' in shown
    assert "deadline_s = 4.0  # the default\n" in shown
    assert f'[[policy.rules]]  # {third}\nusers = ["c"]' in shown
    files.drop_in("a b.toml", "").drop_in("c.toml", "")
    assert files.main(shown).config == loaded.config


def test_drop_ins_count_without_a_main_file(files: Files) -> None:
    assert files.drop_in("a.toml", "[imds]\ntimeout_s = 2").config.imds.timeout_s == 2.0


def test_hidden_files_and_other_suffixes_are_left_alone(files: Files) -> None:
    files.drop_in(".a.toml", "garbage").drop_in("a.toml.rpmsave", "garbage")
    assert files.config == Config()
    ignored = files.directory / "a.toml.rpmsave"
    assert files.load().notes == (f"{ignored}: is not read, since its name does not end in .toml",)


def test_a_missing_file_is_an_error_where_it_was_asked_for(files: Files) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read: No such file"):
        load(files.path, must_exist=True)


def test_a_link_to_nowhere_does_not_silently_mean_the_defaults(files: Files) -> None:
    files.path.symlink_to("nowhere")
    (error,) = files.errors
    assert error == f"{files.path}: cannot be read: No such file or directory"


def test_a_directory_that_is_a_link_to_nowhere_does_not_drop_its_rules(files: Files) -> None:
    files.directory.symlink_to("nowhere")
    (error,) = files.main("").errors
    assert error == f"{files.directory}: cannot be read: No such file or directory"
    files.directory.unlink()
    files.directory.mkdir()
    (files.directory / "rules.toml").symlink_to("nowhere")
    (error,) = files.errors
    assert error == f"{files.directory / 'rules.toml'}: cannot be read: No such file or directory"


def test_a_link_to_nowhere_above_the_files_is_no_absence_either(tmp_path: Path) -> None:
    (tmp_path / "etc").symlink_to("not-mounted")
    path = tmp_path / "etc" / "config.toml"
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).splitlines() == [
        f"{path.parent / 'config.d'}: cannot be read: No such file or directory",
        f"{path}: cannot be read: No such file or directory",
    ]
    (tmp_path / "not-mounted").mkdir()
    assert load(path).config == Config()


def test_what_cannot_be_read_is_an_error_that_names_it(files: Files, tmp_path: Path) -> None:
    files.path.mkdir()
    files.directory.touch()
    assert files.errors == [
        f"{files.directory}: cannot be read: Not a directory",
        f"{files.path}: cannot be read: Is a directory",
    ]


def test_a_pipe_is_not_waited_for(files: Files) -> None:
    files.main("").drop_in("a.toml", "").directory.joinpath("a.toml").unlink()
    os.mkfifo(files.directory / "a.toml")
    (error,) = files.errors
    assert error.endswith("a.toml: cannot be read: it is a pipe or a socket, and no file")


def test_an_empty_device_is_an_empty_file() -> None:
    assert load(Path("/dev/null"), must_exist=True).config == Config()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[imds]\ntimeout_s = \n", "is not TOML: Invalid value (at line 2, column 13)"),
        ("[imds]\n[imds]\n", "(at line 2, column 6)"),
        (b"# \xe4\n", "line 1 is not UTF-8, as TOML must be"),
        (b"[imds]\r\n# \n\xff", "line 3 is not UTF-8, as TOML must be"),
        ("a = " + "[" * 100_000, "is nested too deeply"),
        ("a = " + "9" * 10_000, "is not TOML: "),
    ],
)
def test_what_is_not_toml_is_refused_with_its_place(
    files: Files, text: str | bytes, problem: str
) -> None:
    (error,) = files.main(text).errors
    assert error.startswith(f"{files.path}: ")
    assert problem in error


def test_every_error_of_every_file_is_listed_one_a_line(files: Files) -> None:
    files.main('[imds]\ntimeout_s = "1"\ndeadline = 3\n[keys]\ntypes = ["rsa", "dsa"]')
    files.drop_in("a.toml", "x")
    files.drop_in("b.toml", "[policy]\nallow_users = 3\n[log]\nlevel = 3")
    errors = files.errors
    assert [error.partition(" ")[0] for error in errors] == [
        f"{files.path}:",
        f"{files.path}:",
        f"{files.path}:",
        f"{files.path}:",
        f"{files.directory / 'a.toml'}:",
        f"{files.directory / 'b.toml'}:",
        f"{files.directory / 'b.toml'}:",
    ]
    assert "imds.deadline is unknown; did you mean deadline_s?" in errors[1]
    assert "log.level is 3" in errors[-1]


# --- values ---


@pytest.mark.parametrize(
    ("key", "value", "got"),
    [
        ("imds.endpoint", '"auto "', '"auto "'),
        ("imds.endpoint", "4", "4"),
        ("imds.endpoint", '"169.254.169.254"', '"169.254.169.254"'),
        ("imds.endpoint", '"https://169.254.169.254"', '"https://169.254.169.254"'),
        ("imds.endpoint", '"http://"', '"http://"'),
        ("imds.endpoint", '"http:///latest"', '"http:///latest"'),
        ("imds.endpoint", '"http://127.0.0.1/latest"', '"http://127.0.0.1/latest"'),
        ("imds.endpoint", '"http://127.0.0.1?"', '"http://127.0.0.1?"'),
        ("imds.endpoint", '"http://127.0.0.1:0"', '"http://127.0.0.1:0"'),
        ("imds.endpoint", '"http://127.0.0.1:65536"', '"http://127.0.0.1:65536"'),
        ("imds.endpoint", '"http://u@127.0.0.1"', '"http://u@127.0.0.1"'),
        ("imds.endpoint", '"http://metadata.example"', '"http://metadata.example"'),
        ("imds.endpoint", '"http://[::1"', '"http://[::1"'),
        ("imds.endpoint", '"http://[1]"', '"http://[1]"'),
        ("imds.endpoint", r'"http://127.0.0.1\n"', r'"http://127.0.0.1\u000a"'),
        ("imds.timeout_s", "0", "0"),
        ("imds.timeout_s", "30.1", "30.1"),
        ("imds.timeout_s", "true", "true"),
        ("imds.timeout_s", '"1"', '"1"'),
        ("imds.deadline_s", "nan", "nan"),
        ("imds.deadline_s", "inf", "inf"),
        ("imds.deadline_s", "-1", "-1"),
        ("imds.deadline_s", "0x" + "f" * 9000, "0x" + "f" * 98 + "..."),
        ("imds.deadline_s", "1979-05-27T07:32:00Z", "1979-05-27 07:32:00+00:00"),
        ("identity.sysfs_root", '"sys"', '"sys"'),
        ("identity.sysfs_root", r'"/\u0000"', r'"/\u0000"'),
        ("identity.regions", '"new-north-1=amazonaws.com"', '"new-north-1=amazonaws.com"'),
        ("trust.anchors", '"roots.pem"', '"roots.pem"'),
        ("trust.anchors", "[]", "[]"),
        ("trust.revocation", '"off"', '"off"'),
        ("trust.revocation", "false", "false"),
        ("trust.max_cache_s", "3601", "3601"),
        ("keys.max_lifetime_s", "-1", "-1"),
        ("keys.max_lifetime_s", "86401", "86401"),
        ("keys.clock_skew_s", "3601", "3601"),
        ("keys.types", '"ssh-rsa"', '"ssh-rsa"'),
        ("keys.types", "[]", "[]"),
        ("keys.types", "{ a = 1 }", '{"a" = 1}'),
        ("keys.min_rsa_bits", "1024", "1024"),
        ("keys.min_rsa_bits", "16385", "16385"),
        ("keys.min_rsa_bits", "4096.0", "4096.0"),
        ("keys.min_rsa_bits", "true", "true"),
        ("keys.options", '"restrict"', '"restrict"'),
        ("keys.export_caller", "1", "1"),
        ("policy.allow_users", '"root"', '"root"'),
        ("policy.rules", "[1]", "[1]"),
        ("policy.rules", "{ users = [] }", '{"users" = []}'),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_key_value_and_what_is_accepted(
    files: Files, key: str, value: str, got: str
) -> None:
    (error,) = files.main(f"{key} = {value}").errors
    assert error.startswith(f"{files.path}: {key} is {got}; accepted is ")


@pytest.mark.parametrize(
    ("key", "element"),
    [
        ("keys.types", '"ssh-dss"'),
        ("keys.types", "1"),
        ("keys.types", "[]"),
        ("keys.types", "0x" + "f" * 50),
        ("identity.regions", '"new-*-1=amazonaws.com"'),
        ("policy.allow_users", '""'),
        ("policy.deny_users", '" root"'),
        ("policy.allow_groups", r'"a\u0007"'),
        ("policy.deny_groups", "true"),
    ],
)
def test_an_invalid_element_of_a_list_is_named(files: Files, key: str, element: str) -> None:
    valid = {"keys.types": '"ssh-rsa"', "identity.regions": '"a=b.c"'}.get(key, '"x"')
    (error,) = files.main(f"{key} = [{valid}, {element}]").errors
    assert error.startswith(f"{files.path}: {key} has {element}; accepted is ")


def test_an_option_that_would_break_every_key_is_refused(files: Files) -> None:
    errors = files.main("""keys.options = ["restrict", "cert-authority", "no-ptyy", 3]""").errors
    assert errors == [f"{files.path}: keys.options has 3; accepted is an option of sshd(8)"]
    errors = files.main("""keys.options = ["restrict", "cert-authority", "no-ptyy"]""").errors
    assert "which is refused: it would make an authority of every key" in errors[0]
    assert errors[1].endswith("did you mean no-pty?")


@pytest.mark.parametrize(
    ("rule", "problems"),
    [
        ('callers = ["*"]', ["users is missing"]),
        ('users = ["*"]', ["callers is missing"]),
        ('users = []\ncallers = ["*"]', ["users is []; accepted is an array of one or more"]),
        ('users = ["*"]\ncaller = []', ["caller is unknown; did you mean", "callers is missing"]),
        ('users = "*"\ncallers = [""]', ['users is "*"; accepted', 'callers has ""; accepted']),
    ],
)
def test_a_rule_must_say_for_whom_and_by_whom(files: Files, rule: str, problems: list[str]) -> None:
    valid = '[[policy.rules]]\nusers = ["root"]\ncallers = []\n'
    errors = files.main(f"{valid}[[policy.rules]]\n{rule}").errors
    assert len(errors) == len(problems)
    for error, problem in zip(errors, problems, strict=True):
        assert error.startswith(f"{files.path}: policy.rules number 2: {problem}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[imds]\nendpont = 3", "imds.endpont is unknown; did you mean endpoint?"),
        ("[identity]\nx = 3", "identity.x is unknown; accepted are sysfs_root"),
        ("[polcy]", "[polcy] is unknown; did you mean [policy]?"),
        ("[polcy]\ndeny_users = []", "[polcy] is unknown; did you mean [policy]?"),
        ("zzz = 1", "[zzz] is unknown; accepted are [imds], [identity], [trust]"),
        ("deny_users = []", "deny_users stands outside its table; accepted is below [policy]"),
        ("keys = 3", "keys is 3; accepted is a table [keys]"),
        ("[[keys]]", "keys is [{}]; accepted is a table [keys]"),
        (r'"a\nb\u202e" = 1', r"[a\x0ab\u202e] is unknown; accepted are "),
    ],
)
def test_an_unknown_key_is_refused_with_the_one_that_may_be_meant(
    files: Files, text: str, problem: str
) -> None:
    (error,) = files.main(text).errors
    assert error.startswith(f"{files.path}: {problem}")


@pytest.mark.parametrize(
    "endpoint",
    [
        "ipv4",
        "ipv6",
        "http://127.0.0.1:1338",
        "http://localhost/",
        "http://[::1]/",
        "http://[fd00:ec2::254]:80",
    ],
)
def test_endpoints_that_are_accepted(files: Files, endpoint: str) -> None:
    assert files.main(f'imds.endpoint = "{endpoint}"').config.imds.endpoint == endpoint


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[log]\nlevel = 3", 'log.level is 3; accepted is "debug" or "info" or "warning" or '),
        ("[log]\nlevle = 3", "log.levle is unknown; did you mean level?"),
        ("log = 3", "log is 3; accepted is a table [log]"),
        ("[agent]\nidle_exit_s = -1", "agent.idle_exit_s is -1; accepted is a number from 0 to"),
        ('[agent]\nclients = ["a b"]', 'agent.clients has "a b"; accepted is a user name'),
        ('[agent]\nclients = ["-a"]', 'agent.clients has "-a"; accepted is a user name'),
    ],
)
def test_a_mistake_in_log_or_agent_is_a_warning_and_leaves_the_default(
    files: Files, text: str, problem: str
) -> None:
    loaded = files.main(f"{text}\n[imds]\ntimeout_s = 2").load()
    (warning,) = loaded.warnings
    assert warning.startswith(f"{files.path}: {problem}")
    assert loaded.config == Config(imds=ImdsConfig(timeout_s=2.0))


# --- who can write the files ---


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_can_write_gives_a_warning(files: Files, mode: int) -> None:
    files.main("").path.chmod(mode)
    assert files.load().warnings == (
        f"{files.path}: has mode {mode:o}, so others can let anybody in; chmod go-w",
    )


def test_a_directory_that_others_can_write_gives_a_warning(files: Files) -> None:
    files.drop_in("a.toml", "")
    files.directory.chmod(0o775)
    files.path.parent.chmod(0o777)
    assert [warning.partition(": ")[0] for warning in files.load().warnings] == [
        str(files.path.parent),
        str(files.directory),
    ]


@pytest.mark.parametrize("link", [False, True])
def test_anchors_that_others_can_change_give_a_warning(
    files: Files, tmp_path: Path, *, link: bool
) -> None:
    """Who can write them, or put another directory in their place, can let anybody in."""
    directory = tmp_path / "trust"
    (directory / "inner").mkdir(parents=True)
    anchors = directory / "inner" / "anchors.pem"
    anchors.write_text("")
    named = anchors
    if link:
        named = tmp_path / "link.pem"
        named.symlink_to(anchors)
    files.main(f'[trust]\nanchors = "{named}"')
    assert files.load().warnings == ()
    anchors.chmod(0o666)
    directory.chmod(0o777)
    assert set(files.load().warnings) == {
        f"{directory}: has mode 777, so others can let anybody in; chmod go-w",
        f"{named}: has mode 666, so others can let anybody in; chmod go-w",
    }


def test_a_directory_in_which_nobody_can_replace_a_file_of_ours_is_fine(files: Files) -> None:
    files.main("").path.parent.chmod(0o1777)
    assert files.load().warnings == ()


def test_a_file_of_another_user_gives_a_warning(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.main("")
    if os.geteuid() == 0:
        os.chown(files.path, 12345, 0)
        owner = 12345
    else:  # the same file, seen by somebody else
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    warnings = files.load().warnings
    assert any(
        warning.startswith(f"{files.path}: belongs to user id {owner}") for warning in warnings
    )


# --- show ---


def text(at_least: int = 1) -> st.SearchStrategy[str]:
    printable = st.characters().filter(str.isprintable)
    return st.text(printable, min_size=at_least).filter(lambda string: string == string.strip())


def several(
    element: st.SearchStrategy[str], at_least: int = 0
) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(element, min_size=at_least, max_size=4).map(tuple)


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high)


paths = text(0).map(lambda name: "/" + name.lstrip("/"))
configs = st.builds(
    Config,
    imds=st.builds(
        ImdsConfig,
        endpoint=st.sampled_from(["auto", "ipv4", "ipv6", "http://[::1]:8"]),
        timeout_s=numbers(0.1, 30),
        deadline_s=numbers(0.1, 30),
    ),
    identity=st.builds(
        IdentityConfig,
        paths.map(Path),
        several(st.sampled_from(["new-north-1=amazonaws.com", "a=b.c"])),
    ),
    trust=st.builds(
        TrustRules,
        anchors=st.sampled_from(["auto", "amazon", "system"]) | paths,
        revocation=st.sampled_from(["require", "if-stapled"]),
        max_cache_s=numbers(0, 3600),
    ),
    policy=st.builds(
        Policy,
        keys=st.builds(
            KeyRules,
            max_lifetime_s=numbers(0, 86400),
            clock_skew_s=numbers(0, 3600),
            types=several(st.sampled_from(KEY_TYPES), at_least=1),
            min_rsa_bits=st.integers(2048, 16384),
            options=st.sampled_from(VALID).map(lambda option: (option,)),
            export_caller=st.booleans(),
        ),
        users=st.builds(
            UserRules, several(text()), several(text()), several(text()), several(text())
        ),
        callers=st.lists(
            st.builds(CallerRule, several(text(), at_least=1), several(text())), max_size=3
        ).map(tuple),
    ),
    agent=st.builds(
        AgentConfig,
        idle_exit_s=numbers(0, 86400),
        clients=several(st.from_regex(r"[A-Za-z0-9_.][A-Za-z0-9_.@$\\-]*", fullmatch=True)),
    ),
    log=st.builds(LogConfig, st.sampled_from(["debug", "info", "warning", "error"])),
)


@pytest.fixture(scope="module")
def reread(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], Loaded]:
    files = Files(tmp_path_factory.mktemp("config"))
    return lambda content: files.main(content).load()


@given(config=configs)
def test_what_is_shown_reads_back_to_the_same(
    reread: Callable[[bytes], Loaded], config: Config
) -> None:
    assert reread(show(config).encode("ascii")).config == config


def test_the_defaults_are_shown_too() -> None:
    shown = show(Config())
    for table, keys in schema.TABLES.items():
        assert f"[{table}]\n" in shown
        for key in keys:
            assert f"\n{key} = " in shown or (table, key) == ("policy", "rules")


# --- anything at all ---

toml_values = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda values: st.lists(values, max_size=3),
    max_leaves=5,
)
KEYS = [f"{table}.{key}" for table, keys in schema.TABLES.items() for key in keys]


def errors_of(reread: Callable[[bytes], Loaded], content: bytes) -> list[str]:
    """Errors and warnings alike."""
    try:
        return list(reread(content).warnings)
    except ConfigError as error:
        return str(error).splitlines()


@given(content=st.binary() | st.text().map(lambda string: string.encode("utf-8", "replace")))
def test_any_bytes_give_a_configuration_or_printable_errors(
    reread: Callable[[bytes], Loaded], content: bytes
) -> None:
    for error in errors_of(reread, content):
        assert error.isascii()
        assert error.isprintable()


@given(key=st.sampled_from(KEYS), value=toml_values)
def test_any_value_is_accepted_or_refused_by_its_key(
    reread: Callable[[bytes], Loaded], key: str, value: object
) -> None:
    for error in errors_of(reread, f"{key} = {schema.toml(value)}".encode()):
        assert f"config.toml: {key} " in error


def test_a_directory_that_is_closed_to_us_is_an_error_not_an_absence(files: Files) -> None:
    files.main("")
    parent = files.path.parent
    parent.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match=r"config\.toml: cannot be read"):
            load(files.path)
    finally:
        os.seteuid(os.getuid())
        parent.chmod(0o700)
