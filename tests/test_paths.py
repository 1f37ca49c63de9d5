"""Paths: ~ and variables, and names that are not UTF-8."""

import os

import pytest

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_write, expand, is_utf_8


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DISK", "/disk")
    monkeypatch.delenv("NOT_SET", raising=False)


@pytest.mark.parametrize(
    "path, expected",
    [
        ("~/x", "/home/me/x"),
        ("~", "/home/me"),
        ("~root/x", os.path.expanduser("~root/x")),
        ("a/~/x", "a/~/x"),
        ("./~x", "./~x"),
        ("$DISK/x", "/disk/x"),
        ("${DISK}/x", "/disk/x"),
        ("${NOT_SET:-~/data}/x", "/home/me/data/x"),
        ("${DISK:-other}/x", "/disk/x"),
        ("a$5/$", "a$5/$"),
        ("s3://$DISK/~/x?$NOT_SET", "s3:///disk/~/x?$NOT_SET"),
        ("https://host/~me/x.pyth", "https://host/~me/x.pyth"),
        ("hf://~me/x", "hf://~me/x"),
        ("", ""),
    ],
)
def test_expansion(path, expected):
    assert expand(path) == expected


@pytest.mark.parametrize("path", ["$NOT_SET/x", "a/${NOT_SET}", "${NOT_SET:=x}/a"])
def test_a_variable_that_is_not_set_is_named(path):
    with pytest.raises(UserError, match="NOT_SET.* is not set"):
        expand(path)


def test_a_user_who_is_not_known_is_named():
    with pytest.raises(UserError, match="no user ~nobody_here on this machine"):
        expand("~nobody_here/x")


def test_a_file_with_a_dollar_in_its_name_is_taken_as_it_is(tmp_path):
    path = tmp_path / "for $NOT_SET.mp4"
    path.touch()
    assert expand(str(path)) == str(path)


def test_names_that_are_not_utf_8_are_written_as_escapes(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    atomic_write(tmp_path / "a.txt", f"{name} café\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "caf\\udce9 café\n"
    assert is_utf_8("café") and not is_utf_8(name)
