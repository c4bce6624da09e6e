"""sshd's configuration files are read as sshd reads them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eic_agent.sshd.files import Line, Tree, parse_line, quote, words

# What a line of a file can hold: getline ends at a newline, and sshd stops at a NUL.
line_text = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]))


@given(st.lists(line_text))
def test_a_quoted_list_of_words_is_read_back_as_it_was(found: list[str]) -> None:
    assert words(" ".join(map(quote, found)), comments=True) == tuple(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/bin/x %u", ("/bin/x", "%u")),
        ('/bin/x "a b"\t\'c "d"\'', ("/bin/x", "a b", 'c "d"')),
        (r"/bin/x a\ b \"q\" \n \\", ("/bin/x", "a b", '"q"', r"\n", "\\")),
        (r'/bin/x "a\ b"', ("/bin/x", r"a\ b")),
        ("/bin/x a'b'c \"\"", ("/bin/x", "abc", "")),
        ("/bin/x # y", ("/bin/x", "#", "y")),
        ("", ()),
    ],
)
def test_words_are_split_as_by_argv_split(text: str, expected: tuple[str, ...]) -> None:
    assert words(text) == expected


def test_a_comment_ends_words_where_sshd_lets_it() -> None:
    assert words("a b#c # d", comments=True) == ("a", "b#c")


def test_an_open_quote_is_an_error() -> None:
    with pytest.raises(ValueError, match="no closing"):
        words("/bin/x 'a")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("AuthorizedKeysCommand /x %u  ", ("authorizedkeyscommand", "/x %u")),
        ("\tauthorizedKEYScommand\t=  /x", ("authorizedkeyscommand", "/x")),
        ("AuthorizedKeysCommand=/x", ("authorizedkeyscommand", "/x")),
        ("AuthorizedKeysCommand==/x", ("authorizedkeyscommand", "=/x")),
        ('"AuthorizedKeysCommand" /x', ("authorizedkeyscommand", "/x")),
        ("# AuthorizedKeysCommand /x", None),
        ("  # y", None),
        ("   ", None),
        ("", None),
        ("Lonely", ("lonely", "")),
        ('"broken /x', None),
    ],
)
def test_keyword_and_value(line: str, expected: tuple[str, str] | None) -> None:
    assert parse_line(line) == expected


def tree(tmp_path: Path, **files: str) -> Tree:
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Tree(tmp_path / "main", tmp_path)


def set_lines(found: Tree, keyword: str) -> list[tuple[str, int, str, str | None]]:
    return [
        (str(line.file.relative_to(found.base)), line.number, line.value, line.match)
        for line in found.lines()
        if line.keyword == keyword
    ]


def test_includes_are_followed_in_order_and_match_blocks_end_with_their_file(
    tmp_path: Path,
) -> None:
    found = tree(
        tmp_path,
        main="X 1\nInclude d/*  # comment\nX 2\nMatch User a\n  X 3\n  Include e\nX 4\n",
        d__20="Match User b\nX in-20\n",
        d__10="X in-10\n",
        d__9="X in-9\n",
        d__unseen="",
        e="X in-e\nMatch all\nX all\n",
    )
    (tmp_path / "d/.hidden").write_text("X hidden\n")
    assert set_lines(found, "x") == [
        ("main", 1, "1", None),
        ("d/10", 1, "in-10", None),
        ("d/20", 2, "in-20", "User b"),
        ("d/9", 1, "in-9", None),
        ("main", 3, "2", None),
        ("main", 5, "3", "User a"),
        ("e", 1, "in-e", "User a"),
        ("e", 3, "all", "all"),
        ("main", 7, "4", "User a"),
    ]


def test_an_include_of_itself_ends(tmp_path: Path) -> None:
    found = tree(tmp_path, main="X 1\nInclude main\n")
    assert len(set_lines(found, "x")) == 17


def test_an_include_that_sshd_refuses_is_not_followed(tmp_path: Path) -> None:
    assert set_lines(tree(tmp_path, main="Include 'd\nX 1\n"), "x") == [("main", 2, "1", None)]


def test_a_changed_tree_reads_as_if_the_files_were_so(tmp_path: Path) -> None:
    on_disk = tree(tmp_path, main="Include d/*.conf\n", d__5="", **{"d__20.conf": "X 20\n"})
    add, gone = tmp_path / "d/10.conf", tmp_path / "d/20.conf"
    changed = Tree(on_disk.main, tmp_path, {add: b"X 10\n", gone: None})
    assert set_lines(changed, "x") == [("d/10.conf", 1, "10", None)]
    elsewhere = Tree(on_disk.main, tmp_path, {tmp_path / "d/10": b"X 10\n"})
    assert set_lines(elsewhere, "x") == [("d/20.conf", 1, "20", None)]


def test_a_changed_file_is_known_by_every_path_that_leads_to_it(tmp_path: Path) -> None:
    tree(tmp_path, main="Include link/*.conf\n", **{"d__20.conf": "X 20\n"})
    (tmp_path / "link").symlink_to("d")
    changes = {tmp_path / "d/20.conf": None, tmp_path / "d/30.conf": b"X 30\n"}
    changed = Tree(tmp_path / "main", tmp_path, changes)
    assert set_lines(changed, "x") == [("link/30.conf", 1, "30", None)]


def test_a_copy_reads_as_the_changed_tree_and_keeps_line_numbers(tmp_path: Path) -> None:
    on_disk = tree(
        tmp_path,
        main="X 1\nMatch User a\nInclude mid\nX 4\n",
        mid="\nX mid\nInclude 'some dir'/*.conf\nX mid4\n",
        **{"some dir__[1].conf": "X old\n"},
    )
    changes = {tmp_path / "some dir/[2].conf": b"X new\n"}
    changed = Tree(on_disk.main, tmp_path, changes)
    (tmp_path / "copies").mkdir()
    copy = Tree(changed.copy(tmp_path / "copies"), tmp_path)
    assert str(copy.main) == f"{tmp_path}/copies{tmp_path}/main"

    def essence(line: Line) -> tuple[int, str, str, str | None]:
        return line.number, line.keyword, line.value, line.match

    def without_includes(found: Tree) -> list[tuple[int, str, str, str | None]]:
        return [essence(line) for line in found.lines() if line.keyword != "include"]

    assert without_includes(copy) == without_includes(changed)
    assert [entry[2] for entry in without_includes(copy)] == ["1", "mid", "old", "new", "mid4", "4"]


def test_nothing_is_copied_where_nothing_differs(tmp_path: Path) -> None:
    on_disk = tree(tmp_path, main="Include d/*.conf\n", **{"d__20.conf": "X 20\n"})
    (tmp_path / "copies").mkdir()
    assert on_disk.copy(tmp_path / "copies") == on_disk.main
    assert list((tmp_path / "copies").iterdir()) == []


def test_bytes_that_are_no_text_survive_a_copy(tmp_path: Path) -> None:
    (tmp_path / "main").write_bytes(b"Banner /etc/\xff\nInclude d/*.conf\n")
    (tmp_path / "copies").mkdir()
    changed = Tree(tmp_path / "main", tmp_path, {tmp_path / "d/1.conf": b""})
    assert changed.copy(tmp_path / "copies").read_bytes().startswith(b"Banner /etc/\xff\nInclude /")
