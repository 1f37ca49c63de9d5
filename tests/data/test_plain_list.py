"""The fast reader of usual lists reads what the careful one reads, and leaves it everything else."""

import random

import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations, plain_list
from slowfast_uniformer.data.annotations import LabelReader
from slowfast_uniformer.data.sample_list import SampleList
from slowfast_uniformer.errors import UserError

NAMES = ["wave", "jump", "throw, catch", "ice skating"]
PATHS = [
    "a.mp4",
    "b c.mp4",
    "x,y.mp4",
    "日本/é.webm",
    "/abs/a.mp4",
    "d 3",
    "7 up.mp4",
    "s.tar/m.mp4@512+99",
    "it's.mp4",
]
ODD_PATHS = [
    *PATHS,
    "#no.mp4",
    "# a",
    '"q".mp4',
    "'p'",
    "w\\b.mp4",
    "5",
    "",
    " ",
    "a\u2028b",
    "\x0c.mp4",
    "x,",
    "t\tb.mp4",
]
LABELS = ["0", "1", "3", "2", "003"]
ODD_LABELS = [*LABELS, "4", "-1", "-2", "", "wave", "Ice_Skating", "throw, catch", "2.0", "+1", "٣", "1,2", "1, 2", "-"]
NUMBERS = ["1", "30", "0", "7.5", "1e2", "x", ""]
HEADERS = [
    "path,label",
    "video label",
    "label;path",
    "id\tpath\tclass",
    "0,1",
    "sep=;",
    "path",
    "# list",
    ",path,label",
]
DATA_SETS = {
    "kinetics": (),
    "several": ("DATA.MULTI_LABEL", True),
    "sth": ("TRAIN.DATASET", "sth", "TEST.DATASET", "sth", "DATA.LABEL_PATH_TEMPLATE", "{}.csv"),
    "ant": ("TRAIN.DATASET", "ant", "TEST.DATASET", "ant"),
}


def cfg_for(folder, *overrides):
    base = ["NUM_GPUS", 0, "DATA.PATH_TO_DATA_DIR", str(folder), "MODEL.NUM_CLASSES", 4, "DATA.PATH_PREFIX", "/root"]
    return load_config(None, [*base, *overrides])


def plain(cfg, split="train"):
    columns = annotations.format_of(cfg, split).columns
    return plain_list.read_plain_list(annotations.list_path(cfg, split), cfg, columns, LabelReader(cfg, split))


def careful(cfg, split="train"):
    rows = [sample for _, sample in annotations.read_rows(cfg, split)]
    assert not any(isinstance(sample, UserError) for sample in rows), rows
    return rows


def a_list(draw, odd, numbers, several):
    """The text of a list whose lines have one form, but for `odd` of a hundred."""
    separator = draw.choice([" ", " ", ",", ",", "\t", ";", "|"])
    header = draw.choice(HEADERS) if draw.random() < 0.3 else ""
    extra = draw.choice(["id"] * 3 + ["0"]) if draw.random() < 0.1 else ""
    lines = [header] if header else []
    for _ in range(draw.choice([1, 2, 5, 20])):
        strange = draw.random() < odd
        label = draw.choice(ODD_LABELS if strange else LABELS)
        label = ",".join(draw.choices(LABELS, k=3)) if several and draw.random() < 0.5 else label
        values = draw.choices(NUMBERS, k=numbers) if strange else sorted(draw.sample(["1", "2.5", "30"], k=numbers))
        values = ["30", *values[:2]] if numbers == 3 and not strange else values
        fields = [draw.choice(ODD_PATHS if strange else PATHS), *values, label]
        fields = fields[::-1] if header.startswith("label") else fields
        fields = [extra, *fields] if extra or header.startswith(("id", ",")) else fields
        mark = draw.choice([separator, f" {separator}", f"{separator} "]) if strange else separator
        lines.append(draw.choice(["", "", " "]) * strange + mark.join(fields) + draw.choice(["", " ", "\t"]) * strange)
        lines += [draw.choice(["", "  ", ",,"])] * (draw.random() < odd)
    return draw.choice(["", "\ufeff"]) + draw.choice(["\n", "\n", "\r\n"]).join(lines) + draw.choice(["", "\n", "\n\n"])


def compare(folder, seed, trials):
    """Read random lists; returns how many both readers have read."""
    draw, both = random.Random(seed), 0
    configs = {name: cfg_for(folder, *overrides) for name, overrides in DATA_SETS.items()}
    for _ in range(trials):
        name, split = draw.choice(list(DATA_SETS)), draw.choice(["train", "test"])
        numbers = {"sth": 1, "ant": 3}.get(name, 0)
        text = a_list(draw, draw.choice([0, 0, 0.05, 0.3]), numbers, name == "several")
        path = folder / ("validation.csv" if (name, split) == ("sth", "test") else f"{split}.csv")
        path.write_text(text, encoding="utf-8", newline="")
        if (found := plain(configs[name], split)) is not None:
            both += 1
            assert list(found) == careful(configs[name], split), text
    return both


def test_both_readers_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_list, "_BLOCK", 40)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    assert compare(tmp_path, seed=0, trials=400) > 50


@pytest.mark.parametrize(
    "text, overrides",
    [
        ("a.mp4 1\nb c.mp4 3\n", ()),
        ("a.mp4,1\r\n\r\nx,y.mp4,3", ()),
        ("a.mp4  1\nb.mp4 2 \n", ()),
        ("a b.mp4\t1\nb.mp4\t2\n", ()),
        ("a.mp4|1\nb.mp4|2\n", ()),
        ("path,label\na.mp4,1\nb c.mp4,3\n", ()),
        ("path,label\na.mp4,wave\nb c.mp4,Ice_Skating\n", ()),
        ("class;video name\n0;a.mp4\n", ()),
        ("label\tx\tpath\n3\t\ta.mp4\n", ()),
        ("path label\na.mp4 1\n", ()),
        ("a.mp4 1,2\nb.mp4 3\nc.mp4 -\n", DATA_SETS["several"]),
        ("a 30 1\nb, 12 2\n", DATA_SETS["sth"]),
        ("a.mp4 30 1 2.5 0\n", DATA_SETS["ant"]),
    ],
)
def test_usual_lists_are_read_fast(tmp_path, text, overrides):
    (tmp_path / "classes.txt").write_text("\n".join(name.replace(",", " and") for name in NAMES))
    (tmp_path / "train.csv").write_text(text, newline="")
    cfg = cfg_for(tmp_path, *overrides)
    assert list(plain(cfg)) == careful(cfg)


@pytest.mark.parametrize(
    "line, message",
    [
        ("a.mp4 4", "label 4 is outside 0 to 3"),
        ("a.mp4", "expected 2 fields"),
        ("a.mp4 wavy", "'wavy' is not a whole number"),
        ("caf\udce9.mp4 1", "not a text file in UTF-8"),
        (" 1", "names no video|expected 2 fields"),
    ],
)
@pytest.mark.parametrize("at", [0, 1, 99, 149])
def test_errors_name_file_and_line(tmp_path, monkeypatch, line, message, at):
    monkeypatch.setattr(plain_list, "_BLOCK", 200)
    lines = [f"videos/{k}.mp4 {k % 4}" for k in range(150)]
    lines[at] = line
    (tmp_path / "train.csv").write_text("\n".join(lines), errors="surrogateescape")
    with pytest.raises(UserError, match=f"train.csv, line {at + 1}: .*({message})"):
        annotations.load(cfg_for(tmp_path), "train")


def test_careful_and_fast_readers_give_the_same_checksum(tmp_path):
    """Which one has read a list depends on its form, and a run may go on with the same list in another form."""
    (tmp_path / "train.csv").write_text("a.mp4,1\nb.mp4,2\n")
    found = plain(cfg_for(tmp_path))
    (tmp_path / "train.csv").write_text('"a.mp4",1\n"b.mp4",2\n')
    assert plain(cfg_for(tmp_path)) is None
    again = annotations.load(cfg_for(tmp_path, "DATA.PATH_PREFIX", "/elsewhere"), "train")
    assert again.checksum == found.checksum and isinstance(again, SampleList) and again[0].path == "/elsewhere/a.mp4"


def test_lists_of_segments_are_read_fast(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_list, "_BLOCK", 30)
    lines = [f"v{k}.mp4,{k % 3},{k},{k + 0.5},g{k % 2}" + "\n" * (k % 4 == 0) for k in range(40)]
    (tmp_path / "train.csv").write_text("\n".join(["", "path,label,start,end,group", *lines]))
    cfg = cfg_for(tmp_path)
    found, expected = plain(cfg), careful(cfg)
    assert list(found) == expected and [sample.line for sample in found] == [sample.line for sample in expected]
    assert found[7].segment == (7.0, 7.5) and found[7].group == "g1" and found[7].path == "/root/v7.mp4"
    for wrong in ("v.mp4,1,2,2,g", "v.mp4,1,,,g", "v.mp4,1,0:01,3,g"):
        (tmp_path / "train.csv").write_text(f"path,label,start,end,group\nv.mp4,1,2,3,g\n{wrong}\n")
        assert plain(cfg) is None


def test_both_readers_agree_on_segments_and_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_list, "_BLOCK", 60)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    draw, both = random.Random(1), 0
    cfg, several = cfg_for(tmp_path), cfg_for(tmp_path, "DATA.MULTI_LABEL", True)
    for _ in range(300):
        columns = draw.sample(["path", "start", "end", "label", "group", "other"], 6)
        columns = [column for column in columns if column not in ("group", "other") or draw.random() < 0.5]
        separator, odd, lines = draw.choice([",", "\t", ";", "|"]), draw.choice([0, 0, 0.1]), []
        for _ in range(draw.choice([1, 3, 20])):
            start = draw.choice([0, 1, 2.5, 100])
            fields = {"path": draw.choice(PATHS[:2] + PATHS[3:5]), "label": draw.choice([*LABELS, "wave"])}
            fields |= {
                "start": start,
                "end": start + draw.choice([0.04, 1, 30]),
                "group": draw.choice(["", "a", "b c"]),
            }
            if draw.random() < odd:
                fields |= draw.choice([{"start": "", "end": ""}, {"end": "9:00"}, {"label": '"1,2"'}, {"start": " 0"}])
            lines.append(separator.join(str(fields.get(column, "x")) for column in columns))
            lines += ["", "# a comment"][: draw.choice([0, 0, 0, 1, 2]) if odd else 0]
        (tmp_path / "train.csv").write_text("\n".join([separator.join(columns), *lines]))
        of = several if '"1,2"' in "".join(lines) else cfg
        if (found := plain(of)) is not None:
            expected = careful(of)
            both += 1
            assert list(found) == expected and [s.line for s in found] == [s.line for s in expected], lines
    assert both > 100
