"""YAML files that users write: keys that occur twice, _BASE_ files, encodings, and what is wrong in one line."""

import pytest

from slowfast_uniformer.config.files import read_yaml
from slowfast_uniformer.errors import UserError


@pytest.fixture
def config(tmp_path):
    """Writes a config, and returns its path."""

    def write(content: str | bytes, name: str = "c.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.mark.parametrize(
    "text, lines, name",
    [
        ("SOLVER:\n  MAX_EPOCH: 3\n  BASE_LR: 1\n  MAX_EPOCH: 4\n", (4, 2), "key SOLVER.MAX_EPOCH"),
        ("SOLVER: {BASE_LR: 1}\nTRAIN: {ENABLE: True}\nSOLVER:\n  MAX_EPOCH: 4\n", (3, 1), "section SOLVER"),
        ("SOLVER:\n  MAX_EPOCH: 3\nSOLVER.MAX_EPOCH: 4\n", (3, 2), "key SOLVER.MAX_EPOCH"),
        ("MODEL:\n  ARGS:\n    head: {width: 1,\n      width: 2}\n", (4, 3), "key MODEL.ARGS.head.width"),
        ("OUTPUT_DIR: a\r\nOUTPUT_DIR: b\r\n", (2, 1), "key OUTPUT_DIR"),
    ],
)
def test_a_key_or_section_twice_is_refused_with_both_lines(config, text, lines, name):
    path = config(text)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert str(error.value) == f"{path}, line {lines[0]}: the {name} is in line {lines[1]} already; keep one"


def test_a_key_twice_in_a_base_file_is_named_there(config):
    base = config("SOLVER: {MAX_EPOCH: 1, MAX_EPOCH: 2}\n", "base.yaml")
    with pytest.raises(UserError, match=f"{base}, line 1: the key SOLVER.MAX_EPOCH"):
        read_yaml(config("_BASE_: base.yaml\nSOLVER: {BASE_LR: 1}\n"))


def test_merge_keys_and_aliases_are_no_repetition(config):
    text = "TRAIN: &t {BATCH_SIZE: 2, ENABLE: True}\nTEST:\n  <<: *t\n  BATCH_SIZE: 3\nTENSORBOARD: *t\n"
    content = read_yaml(config(text)).content
    assert content["TEST"] == {"BATCH_SIZE": 3, "ENABLE": True} and content["TENSORBOARD"] == content["TRAIN"]


def test_base_files_win_in_order_and_leave_shared_sections_alone(config, tmp_path, monkeypatch):
    monkeypatch.setenv("BASES", str(tmp_path))
    config("TRAIN: &t {BATCH_SIZE: 2}\nTEST: *t\n", "a.yaml")
    config("_BASE_: a.yaml\nTRAIN: {BATCH_SIZE: 3}\nSOLVER:\n", "b.yaml")
    found = read_yaml(config("_BASE_: [a.yaml, $BASES/b.yaml]\nSOLVER: {BASE_LR: 1}\n"))
    assert found.content == {"TRAIN": {"BATCH_SIZE": 3}, "TEST": {"BATCH_SIZE": 2}, "SOLVER": {"BASE_LR": 1}}
    assert found.places["TRAIN.BATCH_SIZE"] == f"{tmp_path}/b.yaml, line 2"


def test_base_files_that_build_on_each_other_are_refused(config):
    config("_BASE_: c.yaml\n", "b.yaml")
    with pytest.raises(UserError, match="b.yaml, line 1: _BASE_: .* builds on this file itself"):
        read_yaml(config("_BASE_: b.yaml\n"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_and_line_ends_of_editors(config, encoding):
    found = read_yaml(config("OUTPUT_DIR: café\r\nSOLVER:\r\n  BASE_LR: 1\r\n".encode(encoding)))
    assert found.content == {"OUTPUT_DIR": "café", "SOLVER": {"BASE_LR": 1}}


@pytest.mark.parametrize("text", ["2022_01", "007", "2024-01-02", "1e5", "12:30:00", "a b"])
def test_text_stays_as_it_is_written(config, text):
    assert read_yaml(config(f"OUTPUT_DIR: {text}\n")).content == {"OUTPUT_DIR": text}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"SOLVER:\n  BASE_LR: 1\nOUTPUT_DIR: caf\xe9\n", ", line 3: not UTF-8 text"),
        ("SOLVER:\n\tBASE_LR: 1\n", ", line 2: not valid YAML: indented with a tab; use spaces"),
        ("OUTPUT_DIR: a: b\n", ", line 1: not valid YAML: mapping values are not allowed"),
        ("A: \x00\n", ": not valid YAML: "),
        ("A: &a\n  B: *a\n", ": not valid YAML: an alias refers to a node that contains it"),
        ("OUTPUT_DIR: !!python/name:os.system\n", ", line 1: not valid YAML: could not determine a constructor"),
        ("TRAIN: {}\n---\nTEST: {}\n", ", line 2: not valid YAML: "),
        ("# nothing\n", ": it is empty; expected sections"),
        ("just words\n", ": not a config; expected sections"),
        ("_BASE_: {a: b}\n", ", line 1: _BASE_: write the path of a YAML file"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(config, content, message):
    path = config(content)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert str(error.value).startswith(path + message) and "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: cannot be read"):
        read_yaml(str(tmp_path))
