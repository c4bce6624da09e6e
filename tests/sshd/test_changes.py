"""Files change together, or stay as they were."""

import os
import threading
from pathlib import Path

import pytest

from eic_agent.sshd.changes import Changes, content_of
from tests.support import lacking, root


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def attribute(path: Path, name: str) -> None:
    try:
        os.setxattr(path, name, b"kept")
    except OSError as error:
        lacking(f"extended attributes in {path.parent} ({error})", "a TMPDIR on ext4, xfs or btrfs")


def test_a_new_file_has_the_mode_asked_for_and_its_folders_are_made(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        changes = Changes()
        changes.put(tmp_path / "a/b/c", b"x", 0o644)
    finally:
        os.umask(old)
    assert (tmp_path / "a/b/c").read_bytes() == b"x"
    assert mode(tmp_path / "a/b/c") == 0o644
    assert mode(tmp_path / "a/b") == 0o755
    assert changes.touched(tmp_path / "a/b/c")
    assert changes


def test_a_file_that_was_there_keeps_mode_attributes_and_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(b"old")
    real.chmod(0o640)
    attribute(real, "user.note")
    (tmp_path / "link").symlink_to("real")
    Changes().put(tmp_path / "link", b"new", 0o600)
    assert (tmp_path / "link").is_symlink()
    assert real.read_bytes() == b"new"
    assert mode(real) == 0o640
    assert os.getxattr(real, "user.note") == b"kept"


def test_owner_and_label_are_kept_and_what_is_computed_from_the_content_is_not(
    tmp_path: Path,
) -> None:
    root()
    path = tmp_path / "x"
    path.write_bytes(b"old")
    os.chown(path, 1234, 2345)
    attribute(path, "security.selinux")
    attribute(path, "security.capability.of.tests")
    Changes().put(path, b"new", 0o600)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)
    assert os.getxattr(path, "security.selinux") == b"kept"
    assert "security.capability.of.tests" not in os.listxattr(path)


def test_what_is_so_already_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    before = (tmp_path / "x").stat()
    changes = Changes()
    changes.put(tmp_path / "x", b"x", 0o600)
    changes.put(tmp_path / "absent", None, 0o600)
    assert not changes
    assert not changes.touched(tmp_path / "x")
    assert (tmp_path / "x").stat() == before


def test_undo_puts_everything_back(tmp_path: Path) -> None:
    (tmp_path / "edited").write_bytes(b"old")
    (tmp_path / "gone").write_bytes(b"old")
    (tmp_path / "gone").chmod(0o604)
    changes = Changes()
    changes.put(tmp_path / "edited", b"new", 0o600)
    changes.put(tmp_path / "gone", None, 0o600)
    changes.put(tmp_path / "d/e/new", b"new", 0o600)
    changes.undo()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["edited", "gone"]
    assert (tmp_path / "edited").read_bytes() == b"old"
    assert (tmp_path / "gone").read_bytes() == b"old"
    assert mode(tmp_path / "gone") == 0o604
    assert not changes


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("eic_agent.sshd.changes.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Changes().put(path, b"new", 0o600)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_see_the_old_or_the_new_file_and_nothing_between(tmp_path: Path) -> None:
    path = tmp_path / "x"
    contents = (b"a" * 100_000, b"b" * 200_000)
    Changes().put(path, contents[0], 0o600)
    seen: set[bytes | None] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(content_of(path))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(200):
        Changes().put(path, contents[turn % 2], 0o600)
    done.set()
    reader.join()
    assert seen <= set(contents)
    assert seen


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "x"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="named pipe"):
        content_of(pipe)
    keeps_it_open = os.open(pipe, os.O_RDWR)
    with pytest.raises(OSError, match="named pipe"):
        content_of(pipe)
    os.close(keeps_it_open)
    assert content_of(Path("/dev/null")) == b""
