"""Predictions, as the command prints and draws them; the order in which videos are opened."""

import csv
import io
import json
import logging
import os
import shutil
from collections import Counter

import pytest
import torch
from conftest import exit_status
from matplotlib.text import Text

from slowfast_uniformer.cli import main
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.inference import predict as predict_module
from slowfast_uniformer.inference.predict import clock, csv_head, draw_timeline, predict, segments
from slowfast_uniformer.inference.predictor import Span, as_sample
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.fonts import set_literal


def test_predictions_are_those_of_testing(model, trained, tiny, run_net):
    last = checkpoints.latest(str(trained))
    status, _, error = run_net([*tiny, "TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", last])
    assert status == 0, error
    with open(f"{tiny[tiny.index('OUTPUT_DIR') + 1]}/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        prediction = model.predict(row["video"], topk=2)
        assert prediction["class"] == row["prediction_name"] and prediction["label"] == int(row["prediction"])
        assert prediction["probability"] == pytest.approx(float(row["probability"]), abs=2e-6)
        assert [each["class"] for each in prediction["topk"]] == [row["top1_name"], row["top2_name"]]


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Call it for the paths of the videos that were opened so far, in this process and in DataLoader workers."""
    log, begin = tmp_path / "opened.txt", Video.__init__
    log.touch()

    def counted(self, path, *arguments, **options):
        with log.open("a") as file:
            file.write(f"{path}\n")
        begin(self, path, *arguments, **options)

    monkeypatch.setattr(Video, "__init__", counted)
    return lambda: log.read_text().split()


@pytest.fixture
def three(model, demo, long_video):
    """A short, a long and a short video."""
    first, second = sorted((demo / "videos" / "up").iterdir())[:2]
    return [as_sample(path, model.cfg) for path in (first, long_video, second)]


def test_each_video_is_opened_once_when_its_turn_comes(model, three, opened):
    paths = [sample.path for sample in three]
    found = predict(model, three, longer_than=5.0)
    rows = [next(found).row]
    assert opened() == paths[:1]
    rows += [prediction.row for prediction in found]
    assert opened() == paths
    assert [row["video"] for row in rows] == paths and ["timeline" in row for row in rows] == [False, True, False]


def test_workers_open_long_videos_to_see_their_length_and_no_more(model, three, opened):
    alone = [prediction.row for prediction in predict(model, three, longer_than=5.0)]
    before = len(opened())
    found = predict(model, [*three, *three[2:] * 6], longer_than=5.0, workers=1)
    rows = [next(found).row]
    assert len(opened()) - before < 9  # the first result does not wait for all videos
    rows += [prediction.row for prediction in found]
    counts = Counter(opened()[before:])
    assert [counts[sample.path] for sample in three] == [1, 2, 7]
    for row, expected in zip(rows, alone, strict=False):
        assert row.keys() == expected.keys() and row["class"] == expected["class"]
        assert row["probability"] == pytest.approx(expected["probability"], abs=1e-5)


def test_segments_join_spans_of_one_class():
    first, second = torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8])
    spans = [Span(0, 1, first), Span(1, 4, torch.tensor([0.6, 0.4])), Span(4, 5, second)]
    assert segments(spans, ["a", "b"]) == [
        {"start": 0, "end": 4, "class": "a", "label": 0, "probability": pytest.approx((0.9 + 3 * 0.6) / 4)},
        {"start": 4, "end": 5, "class": "b", "label": 1, "probability": pytest.approx(0.8)},
    ]
    assert [clock(s) for s in (0, 59.96, 62.5, 600)] == ["0:00", "1:00", "1:02.5", "10:00"]


def test_the_checkpoint_that_is_taken_is_named(command, trained, demo, tmp_path, caplog):
    """A run's folder means the checkpoint that its own test takes."""
    video, run = next((demo / "videos").glob("left/*")), shutil.copytree(trained, tmp_path / "run")
    latest, best = (os.path.join("checkpoints", name) for name in ("epoch_00002.pyth", "best.pyth"))
    shutil.copy(run / latest, run / best)
    caplog.set_level(logging.INFO, "slowfast_uniformer")
    of_best = f"{latest}, the latest, as its test does (the best is {best})"
    for path, lines in ((trained, [latest]), (run, [of_best]), (run / latest, [])):
        caplog.clear()
        assert command("predict", "--checkpoint", path, video, "--csv")[0] == 0
        assert [line for line in caplog.messages if ": using " in line] == [f"{path}: using {line}" for line in lines]
    config = run / "config.yaml"
    config.write_text("TEST: {TEST_BEST: True}\n")
    caplog.clear()
    assert command("predict", "--checkpoint", run, video, "--csv")[0] == 0
    assert (
        f"{run}: using {best}, the best of its validations, as its test does (the latest is epoch_00002.pyth)"
        in caplog.text
    )


def test_json_csv_and_text_agree(command, trained, demo, tmp_path):
    folder = demo / "videos" / "left"
    arguments = ("--checkpoint", trained, folder, "--topk", 3)
    status, out, error = command("predict", *arguments, "--json")
    rows = json.loads(out)
    assert status == 0 and error == "" and len(rows) == len(list(folder.iterdir()))
    assert set(rows[0]) == {"video", "class", "label", "probability", "topk"} and len(rows[0]["topk"]) == 3
    _, out, _ = command("predict", *arguments, "--csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert [(row["video"], row["class"], float(row["top1_probability"])) for row in table] == [
        (row["video"], row["class"], row["probability"]) for row in rows
    ]
    _, out, _ = command("predict", *arguments)
    assert out.count("\n") == 4 * len(rows) and f"{rows[0]['probability']:.1%}  {rows[0]['class']}" in out


def test_there_are_no_columns_beyond_the_number_of_classes(command, trained, demo):
    folder = demo / "videos" / "left"
    _, out, _ = command("predict", "--checkpoint", trained, folder, "--topk", 100, "--csv")
    (head, row, *_) = csv.reader(io.StringIO(out))
    assert head == csv_head(8) and len(row) == len(head) and all(row[:-1])


def test_names_that_the_terminal_lacks(trained, demo, tmp_path, monkeypatch):
    """Beyond its encoding, and bytes that are not UTF-8: in every output, and in names of files that are written."""
    source = next((demo / "videos" / "left").iterdir())
    names = [os.fsdecode(name) for name in ("\u65e5\u672c.mp4".encode(), b"caf\xe9.mp4")]
    for name in names:
        shutil.copy(source, tmp_path / name)
    pictures = ["--picture", tmp_path / "out", "--overlay", tmp_path / "out"]
    for extra in ([], ["--csv"], ["--json"], pictures):
        raw = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
        words = ["predict", "--checkpoint", trained, tmp_path / names[0], tmp_path / names[1], *extra]
        assert exit_status(lambda words=words: main.run([*map(str, words)])) == 0
        text = raw.getvalue().decode("ascii")
        if extra == ["--json"]:
            assert [row["video"] for row in json.loads(text)] == [str(tmp_path / name) for name in names]
        else:
            assert "\\u65e5\\u672c.mp4" in text and "caf\\udce9.mp4" in text
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_long_videos_get_timeline_picture_and_overlay(command, trained, long_video, demo, tmp_path):
    short = next((demo / "videos" / "up").iterdir())
    status, out, error = command(
        "predict",
        "--checkpoint",
        trained,
        long_video,
        short,
        "--json",
        "--longer-than",
        5,
        "--overlay",
        tmp_path / "named",
    )
    assert status == 0, error
    with_timeline, without = json.loads(out)
    assert "timeline" not in without
    parts = with_timeline["timeline"]
    assert parts[0]["start"] == 0 and parts[-1]["end"] == 8
    for before, after in zip(parts, parts[1:], strict=False):
        assert before["end"] == after["start"] and before["class"] != after["class"]
    for name, source in (("long", long_video), (short.stem, short)):
        with Video(tmp_path / "named" / f"{name}.mp4") as made, Video(source) as original:
            assert made.frames == original.frames and made.fps == original.fps
    status, _, _ = command("predict", "--checkpoint", trained, short, "--picture", tmp_path / "t.png")
    assert status == 0 and (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_unreadable_videos_are_reported_and_the_others_predicted(command, trained, demo, tmp_path):
    good = next((demo / "videos" / "up").iterdir())
    for name in ("a b'c\".mp4", "-x.mp4"):
        shutil.copy(good, tmp_path / name)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "list.txt").write_text(f"empty.mp4 3\n{tmp_path}/sub/../-x.mp4 1\na b'c\".mp4\n")
    (tmp_path / "sub").mkdir()
    status, out, error = command("predict", "--checkpoint", trained, tmp_path / "list.txt", "--json")
    bad, *rest = json.loads(out)
    assert status == 2 and "empty.mp4: the file is empty" in error and "Traceback" not in error
    assert bad["class"] is None and bad["error"] in error
    assert [row["class"] for row in rest] == [rest[0]["class"]] * 2
    status, out, error = command("predict", "--checkpoint", trained, "--", tmp_path / "text.mp4")
    assert status == 2 and out == "" and error.count("error: ") == 1 and "not a video" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{sub}"], "a folder without any files"),
        (["{good}", "--overlay", "{good}"], "would overwrite a video that was given"),
        (["{good}", "--overlay", "{sub}/x.avi"], "ending in .mp4, or a folder"),
        (["{good}", "{text}", "--picture", "{sub}/x.png"], "2 videos need a file each"),
        (["{good}", "--overlay", "/proc/none/x.mp4"], "cannot write /proc/none/x.mp4"),
        (["{good}", "--window", "0", "--longer-than", "0"], "must be a number above 0"),
        (["{good}", "--checkpoint", "{text}"], "not a checkpoint, or damaged"),
        (["{good}", "--checkpoint", "{sub}"], "this folder has no checkpoints"),
        (["{good}", "--set", "TEST.NOTHING", "1"], "unknown key TEST.NOTHING"),
    ],
)
def test_one_message_for_bad_arguments(command, trained, demo, tmp_path, arguments, message):
    (tmp_path / "sub").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    good = next((demo / "videos" / "up").iterdir())
    places = {"good": good, "sub": tmp_path / "sub", "text": tmp_path / "text.mp4"}
    before = good.read_bytes()
    status, _, error = command(
        "predict", "--checkpoint", trained, *(argument.format(**places) for argument in arguments)
    )
    assert status == 2 and message in error and error.count("error:") == 1 and "Traceback" not in error
    assert good.read_bytes() == before and not list((tmp_path / "sub").iterdir())


def test_names_and_titles_of_a_timeline_are_drawn_literally(tmp_path, monkeypatch):
    """Also with a leading _, which Matplotlib would leave out of a legend."""
    names = ["$100% off$ sale", "_hidden", "_nolegend_", "a\nb", "\\frac{", "x" * 99]
    spans = [Span(float(t), t + 1.0, torch.eye(6)[t]) for t in range(6)]
    figures = []
    monkeypatch.setattr(predict_module, "set_literal", lambda figure: (figures.append(figure), set_literal(figure)))
    draw_timeline(spans, names, str(tmp_path / "t.png"), "$v$_\udcff.mp4")
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == [*names[:3], "a b", "\\frac{", "x" * 31 + "…"]
    assert figures[0].axes[0].get_title("left") == "$v$_□.mp4" and (tmp_path / "t.png").stat().st_size
    assert not any(text.get_parse_math() for text in figures[0].findobj(Text))


def test_segments_are_predicted_from_views_inside_them(model, tiny, long_video, run_net, command, trained, tmp_path):
    """As testing does; a list of segments given to predict gives the same as one given as the test list."""
    listed = tmp_path / "segments.csv"
    listed.write_text(f"path,start,end,label\n{long_video},0.5,1.5,1\n{long_video},4,7.5,2\n{long_video},9,10,2\n")
    shutil.copy(listed, tmp_path / "test.csv")
    out = tiny[tiny.index("OUTPUT_DIR") + 1]
    keys = [
        "TRAIN.ENABLE",
        False,
        "TEST.CHECKPOINT_FILE_PATH",
        checkpoints.latest(str(trained)),
        "TEST.MIN_COVERAGE",
        60,
    ]
    status, _, error = run_net([*tiny, *keys, "DATA.PATH_TO_DATA_DIR", tmp_path])
    assert status == 0, error
    with open(f"{out}/predictions.csv", newline="") as file:
        tested = list(csv.DictReader(file))
    assert [(row["start"], row["end"]) for row in tested] == [("0.5", "1.5"), ("4.0", "7.5"), ("9.0", "10.0")]
    status, printed, error = command("predict", "--checkpoint", trained, "--csv", "--longer-than", 2, listed)
    assert status == 2 and "line 4: cannot read" in error and "is beyond its end at 8 s" in error
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [row["start"] for row in rows] == ["0.5", "4.0", "9.0"] and rows[2]["class"] == ""
    for row, test in zip(rows[:2], tested, strict=False):
        assert row["label"] == test["prediction"]
        assert float(row["probability"]) == pytest.approx(float(test["probability"]), abs=2e-6)
    status, _, error = command("predict", "--checkpoint", trained, "--picture", tmp_path / "x", listed)
    assert status == 2 and "--picture needs timelines of whole videos" in error
    overlay = tmp_path / "overlays"
    command("predict", "--checkpoint", trained, "--overlay", overlay, "--json", listed)
    with Video(overlay / "long_2.mp4") as video:
        assert video.frames == round(3.5 * 25)
