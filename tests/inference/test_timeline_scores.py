"""Timelines against annotated events: a rendered video from predict to its scores, and annotations that do not fit."""

import json

import numpy as np
import pytest
import torch
from matplotlib.text import Text

from slowfast_uniformer.cli import predict as command_module
from slowfast_uniformer.data.event_files import read_events
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference import predict as predict_module
from slowfast_uniformer.inference.predict import VideoPrediction, draw_timeline, segments
from slowfast_uniformer.inference.predictor import Predictor, Span
from slowfast_uniformer.inference.timeline_scores import Evaluation, class_rows, scores_json, scores_text
from slowfast_uniformer.inference.video_writer import write_video

COLORS = {"left": (120, 120, 120), "right": (210, 30, 30), "up": (30, 200, 30), "down": (30, 30, 210)}
EVENTS = [("right", 2, 4), ("up", 5, 7), ("down", 8, 10)]  # seconds, of 12; the rest is grey


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A long video with three events."""
    path = tmp_path_factory.mktemp("long") / "recording.mp4"
    names = [next((name for name, start, end in EVENTS if start <= n / 25 < end), "left") for n in range(300)]
    write_video(str(path), (np.full((48, 64, 3), COLORS[name], np.uint8) for name in names), 25)
    return path


@pytest.fixture
def sees_colors(monkeypatch, model):
    """A model that knows the classes by their colors."""
    known = torch.full((len(model.names), 3), -9.0)
    for name, color in COLORS.items():
        known[model.names.index(name)] = (torch.tensor(color) / 255 - 0.45) / 0.225
    monkeypatch.setattr(Predictor, "logits", lambda self, clips: -torch.cdist(clips.mean((2, 3, 4)), known))


def annotations(folder, rows=(), video="recording.mp4"):
    path = folder / "events.csv"
    rows = rows or [(video, start, end, name) for name, start, end in EVENTS]
    path.write_text("\n".join(["video,start,end,label", *(",".join(map(str, row)) for row in rows)]))
    return path


def test_from_a_long_video_to_the_scores_of_its_timeline(command, trained, recording, sees_colors, tmp_path):
    events = annotations(tmp_path)
    words = ("predict", "--checkpoint", trained, "--annotations", events, recording, "--window", 1, "--stride", 0.5)
    words += ("--background", "left", "--scores", tmp_path / "scores.json", "--picture", tmp_path / "timeline.png")
    status, out, error = command(*words)
    assert status == 0 and "1 video with 3 events; predicted: 3 segments, background (left) not counted" in out, error
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["segment_f1"] == {"0.1": 100.0, "0.25": 100.0, "0.5": 100.0} and scores["frames"] == 300
    assert 85 < scores["frame_accuracy"] < 100 and scores["map"]["0.5"] == 100.0 > scores["map"]["0.95"]
    assert {row["class"]: row["events"] for row in scores["classes"]} == {"right": 1, "up": 1, "down": 1}
    assert f"frame-wise accuracy {scores['frame_accuracy']:.1f} % of 300 frames\n" in out
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")
    status, out, error = command(*words, "--json")
    (row,) = json.loads(out)
    parts = [(part["class"], part["start"], part["end"]) for part in row["timeline"]]
    assert [name for name, *_ in parts] == ["left", "right", "left", "up", "left", "down", "left"]
    for (name, start, end), expected in zip(parts[1::2], EVENTS, strict=True):
        assert name == expected[0] and abs(start - expected[1]) <= 0.5 and abs(end - expected[2]) <= 0.5
    assert "segment F1 by IoU: 100.0 % at 0.1, 100.0 % at 0.25, 100.0 % at 0.5" in error


def test_options_of_a_timeline_change_it(command, trained, recording, sees_colors, tmp_path):
    words = (
        "predict",
        "--checkpoint",
        trained,
        recording,
        "--window",
        1,
        "--stride",
        0.5,
        "--longer-than",
        5,
        "--json",
    )
    assert len(json.loads(command(*words)[1])[0]["timeline"]) == 7
    assert len(json.loads(command(*words, "--min-length", 3)[1])[0]["timeline"]) < 7
    smooth = json.loads(command(*words, "--smooth", 2)[1])[0]["timeline"]
    assert smooth[1]["probability"] < json.loads(command(*words)[1])[0]["timeline"][1]["probability"]
    assert command(*words, "--smooth", 0)[0] == 2


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([("recording.mp4", 4, 2, "up")], [], "events.csv, line 2: the segment from 4 to 2 s"),
        ([("recording.mp4", "x", 2, "up")], [], "events.csv, line 2: start 'x'"),
        ([("", 1, 2, "up")], [], "events.csv, line 2: the line has no video"),
        ([("recording.mp4", 1, 2, "hop")], [], "the class 'hop' (1 to 2 s) is none of the model's"),
        ([("other.mp4", 1, 2, "up")], [], "no event of the 1 video given; they name other.mp4"),
        ([], ["--background", "hop"], "--background hop: the model has no such class"),
        ([], ["--scores", "{tmp}/scores.txt"], "must end in .json"),
    ],
)
def test_one_message_for_bad_annotations(command, trained, recording, tmp_path, rows, options, message):
    words = ("--checkpoint", trained, recording, "--annotations", annotations(tmp_path, rows))
    status, out, error = command("predict", *words, *(option.format(tmp=tmp_path) for option in options))
    assert status == 2 and message in error and error.count("error:") == 1 and out == ""
    status, _, error = command("predict", "--checkpoint", trained, recording, "--scores", tmp_path / "s.json")
    assert status == 2 and "need --annotations" in error


def test_rows_that_are_left_out_are_named(monkeypatch, capsys):
    places = [f"e.csv, line {n}" for n in range(2, 9)]

    def read(path, leave_out):
        for place in places:
            leave_out("events without a length", place)
        return ["an event"] if path == "some.csv" else []

    monkeypatch.setattr(command_module, "read_events", read)
    assert command_module.read_annotations(["some.csv"]) == ["an event"]
    named = capsys.readouterr().err
    assert "left out: e.csv, line 2: events without a length" in named and "line 7" not in named and "2 more" in named
    with pytest.raises(UserError, match=r"none.csv: no event with a start, an end and a label; e.csv, line 2: "):
        command_module.read_annotations(["none.csv"])


def test_a_video_that_cannot_be_read_is_not_scored(command, trained, recording, sees_colors, tmp_path):
    (tmp_path / "bad.mp4").touch()
    events = annotations(tmp_path, [("recording.mp4", 2, 4, "right"), ("bad.mp4", 1, 2, "up")])
    words = ("--annotations", events, "--window", 2)
    status, out, error = command("predict", "--checkpoint", trained, tmp_path / "bad.mp4", recording, *words)
    assert status == 2 and "1 video with 1 event; predicted: " in out and "bad.mp4: the file is empty" in error
    assert "of 50 frames of events (the model has no background class)" in out


# ------------------------------------------------------------------------------------------------------ annotations
NAMES = ["walk", "run", "background"]


@pytest.fixture
def evaluate(tmp_path):
    """An `Evaluation` of rows of annotations."""

    def make(videos, *rows):
        return Evaluation(videos, read_events(str(annotations(tmp_path, rows)), lambda *left_out: None), NAMES)

    return make


def prediction(video: str, labels: str, fps: float = 10.0) -> VideoPrediction:
    """One second for each label."""
    spans = [Span(n, n + 1.0, torch.eye(3)[int(label)]) for n, label in enumerate(labels)]
    return VideoPrediction({"video": video, "timeline": segments(spans, NAMES)}, spans[0].probabilities, spans, fps)


def test_videos_and_classes_are_found_by_their_names(evaluate):
    events = [("b/one.mp4", 0, 1, "Walk"), ("two", 1, 3, "1"), ("elsewhere.mp4", 0, 1, "what ever")]
    evaluation = evaluate(["/data/b/one.mp4", "/data/c/one.mp4", "/data/two.avi"], *events)
    assert [[event.label for event in found] for found in evaluation.events.values()] == [[0], [], [1]]
    assert evaluation.background == 2
    assert evaluation.warnings == [
        "no event is annotated in /data/c/one.mp4: every event that is predicted there is wrong"
    ]
    with pytest.raises(UserError, match=r"one can be /data/b/one.mp4 or /data/c/one.mp4"):
        evaluate(["/data/b/one.mp4", "/data/c/one.mp4"], ("one", 0, 1, "walk"))


def test_events_end_with_the_video_and_background_is_no_event(evaluate):
    events = [("v.mp4", 3, 9, "run"), ("v.mp4", 8, 9, "walk"), ("v.mp4", 0, 2, "background")]
    evaluation = evaluate(["v.mp4"], *events)
    kept = evaluation.add(prediction("v.mp4", "22011"))
    assert [event[:3] for event in kept] == [(3, 5, 1), (0, 2, 2)]
    assert evaluation.warnings == ["left out: walk from 8 to 9 s, where v.mp4 has ended (5 s)"]
    scores = evaluation.scores()
    assert (scores["events"], scores["predicted"], scores["frame_accuracy"]) == (1, 2, 80.0)
    assert class_rows(scores, NAMES)[1:] == [["walk", "0", "1", "0.0 %", "–"], ["run", "1", "1", "100.0 %", "100.0 %"]]
    plain = scores_json(scores, NAMES)
    assert plain["classes"][0]["ap"] is None and json.loads(json.dumps(plain))["map"]["0.95"] == 100.0
    assert "frame-wise accuracy 80.0 % of 50 frames" in scores_text(scores, NAMES, 2)


def test_a_picture_has_the_events_above_the_timeline(evaluate, tmp_path, monkeypatch):
    figures, literal = [], predict_module.set_literal
    monkeypatch.setattr(predict_module, "set_literal", lambda figure: (figures.append(figure), literal(figure)))
    evaluation = evaluate(["v.mp4"], ("v.mp4", 1, 3, "run"), ("v.mp4", 2, 4, "walk"))
    found = prediction("v.mp4", "21100")
    row = found.row["timeline"]
    draw_timeline(found.spans, NAMES, str(tmp_path / "t.png"), "v", row, evaluation.add(found))
    annotated, predicted, curves = figures[0].axes
    bars = [collection.get_paths()[0].get_extents() for collection in annotated.collections]
    assert [(bar.x0, bar.x1, bar.y0, bar.y1) for bar in bars] == [(1, 3, 0.5, 1), (2, 4, 0, 0.5)]  # they overlap
    assert len(predicted.collections) == 3 and predicted.get_xlim() == (0, 5)
    texts = [text.get_text() for text in figures[0].findobj(Text)]
    assert {"annotated", "predicted", "walk", "run", "background"} <= set(texts)
