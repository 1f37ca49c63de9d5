"""What a trained model says of videos: load_model, timelines, tools/predict.py."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
import video_factory

from slowfast_uniformer import load_model
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference import video_writer
from slowfast_uniformer.inference.predict import clock, segments
from slowfast_uniformer.inference.predictor import Span, window_starts
from slowfast_uniformer.runs import checkpoints


@pytest.fixture(scope="module")
def model(trained):
    return load_model(trained)


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """Eight seconds."""
    return video_factory.write_video(tmp_path_factory.mktemp("long") / "long.mp4", frames=200)


def test_answers_as_testing_does(model, trained, tiny, run_net):
    last = checkpoints.latest(str(trained))
    status, _, error = run_net([*tiny, "TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", last])
    assert status == 0, error
    with open(f"{tiny[tiny.index('OUTPUT_DIR') + 1]}/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        answer = model.predict(row["video"], topk=2)
        assert answer["class"] == row["prediction_name"] and answer["label"] == int(row["prediction"])
        assert answer["probability"] == pytest.approx(float(row["probability"]), abs=2e-6)
        assert [each["class"] for each in answer["topk"]] == [row["top1_name"], row["top2_name"]]


def test_several_at_once_with_workers(model, demo):
    videos = annotations.load(model.cfg, "test")
    alone = [model.predict(video.path)["probability"] for video in videos]
    together = [float(found.max()) for found in model.answers(videos, workers=2)]
    assert together == pytest.approx(alone, abs=1e-6) and len(alone) == 9


def test_weights_without_a_config_need_one(trained, tmp_path, demo):
    state = torch.load(checkpoints.latest(str(trained)), weights_only=True)
    torch.save(state["model_state"], tmp_path / "weights.pth")
    with pytest.raises(UserError, match="carries no config; say with --cfg"):
        load_model(tmp_path / "weights.pth")
    config = tmp_path / "config.yaml"
    config.write_text(load_model(trained).cfg.dump())
    model = load_model(tmp_path / "weights.pth", str(config), ["TEST.NUM_ENSEMBLE_VIEWS", 1])
    assert model.names == state["class_names"] and model.cfg.TEST.NUM_ENSEMBLE_VIEWS == 1
    seven = ["MODEL.NUM_CLASSES", 7, "DATA.PATH_TO_DATA_DIR", ""]
    with pytest.raises(UserError, match="weights.pth.*class"):
        load_model(tmp_path / "weights.pth", str(config), seven)


def test_windows_cover_the_video():
    assert window_starts(100, 20, 10) == list(range(0, 81, 10))
    assert window_starts(95, 20, 10) == [*range(0, 71, 10), 75]
    assert window_starts(20, 20, 10) == [0]


def test_timeline_averages_the_windows_that_cover_a_moment(model, long_video):
    spans = model.timeline(long_video, window=2.0, step=1.0)
    assert [(span.start, span.end) for span in spans] == [(n, n + 1.0) for n in range(8)]
    alone = [model.timeline(long_video, window=2.0, step=2.0)[n].probabilities for n in range(4)]
    with Video(long_video) as source:
        odd = model._windows(source, [25, 75, 125], 50.0, 25.0)
    torch.testing.assert_close(spans[0].probabilities, alone[0])
    torch.testing.assert_close(spans[7].probabilities, alone[3])
    torch.testing.assert_close(spans[3].probabilities, (odd[1] + alone[1]) / 2)
    for span in spans:
        assert float(span.probabilities.sum()) == pytest.approx(1)


def test_segments_join_what_is_alike():
    first, second = torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.8])
    spans = [Span(0, 1, first), Span(1, 4, torch.tensor([0.6, 0.4])), Span(4, 5, second)]
    assert segments(spans, ["a", "b"]) == [
        {"start": 0, "end": 4, "class": "a", "label": 0, "probability": pytest.approx((0.9 + 3 * 0.6) / 4)},
        {"start": 4, "end": 5, "class": "b", "label": 1, "probability": pytest.approx(0.8)},
    ]
    assert [clock(s) for s in (0, 59.96, 62.5, 600)] == ["0:00", "1:00", "1:02.5", "10:00"]


def test_json_csv_and_text_say_the_same(command, trained, demo, tmp_path):
    folder = demo / "videos" / "left"
    arguments = ("--checkpoint", trained, folder, "--topk", 3)
    status, out, error = command("predict.py", *arguments, "--json")
    rows = json.loads(out)
    assert status == 0 and error == "" and len(rows) == len(list(folder.iterdir()))
    assert set(rows[0]) == {"video", "class", "label", "probability", "topk"} and len(rows[0]["topk"]) == 3
    _, out, _ = command("predict.py", *arguments, "--csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert [(row["video"], row["class"], float(row["top1_probability"])) for row in table] == [
        (row["video"], row["class"], row["probability"]) for row in rows
    ]
    _, out, _ = command("predict.py", *arguments)
    assert out.count("\n") == 4 * len(rows) and f"{rows[0]['probability']:.1%}  {rows[0]['class']}" in out


def test_long_videos_get_timeline_picture_and_overlay(command, trained, long_video, demo, tmp_path):
    short = next((demo / "videos" / "up").iterdir())
    status, out, error = command(
        "predict.py",
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
    status, _, _ = command("predict.py", "--checkpoint", trained, short, "--picture", tmp_path / "t.png")
    assert status == 0 and (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_bad_videos_are_named_and_the_others_answered(command, trained, demo, tmp_path):
    good = next((demo / "videos" / "up").iterdir())
    for name in ("a b'c\".mp4", "-x.mp4"):
        shutil.copy(good, tmp_path / name)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "list.txt").write_text(f"empty.mp4 3\n{tmp_path}/sub/../-x.mp4 1\na b'c\".mp4\n")
    (tmp_path / "sub").mkdir()
    status, out, error = command("predict.py", "--checkpoint", trained, tmp_path / "list.txt", "--json")
    bad, *rest = json.loads(out)
    assert status == 2 and "empty.mp4: the file is empty" in error and "Traceback" not in error
    assert bad["class"] is None and bad["error"] in error
    assert [row["class"] for row in rest] == [rest[0]["class"]] * 2
    status, out, error = command("predict.py", "--checkpoint", trained, "--", tmp_path / "text.mp4")
    assert status == 2 and out == "" and error.count("\n") == 1 and "text.mp4: not a video" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{sub}"], "a folder without videos"),
        (["{good}", "--overlay", "{good}"], "is one of the videos that were given"),
        (["{good}", "--overlay", "{sub}/x.avi"], "ending in .mp4, or a folder"),
        (["{good}", "{text}", "--picture", "{sub}/x.png"], "one file for 2 videos"),
        (["{good}", "--overlay", "/proc/none/x.mp4"], "cannot write /proc/none/x.mp4"),
        (["{good}", "--window", "0", "--longer-than", "0"], "seconds above 0"),
        (["{good}", "--checkpoint", "{text}"], "not a checkpoint, or damaged"),
        (["{good}", "--checkpoint", "{sub}"], "a folder without checkpoints"),
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
        "predict.py", "--checkpoint", trained, *(argument.format(**places) for argument in arguments)
    )
    assert status == 2 and message in error and error.count("error:") == 1 and "Traceback" not in error
    assert good.read_bytes() == before and not list((tmp_path / "sub").iterdir())


def test_names_of_files_to_write_are_plain_and_differ():
    names = video_writer.file_names(["a/x.mp4", "b/x.mp4", "../../-y.avi", "c/.hidden", "/"], ".png")
    assert names == ["x.png", "x_2.png", "y.png", "hidden.png", "video.png"]


def test_a_video_that_cannot_be_finished_leaves_nothing(tmp_path):
    def frames():
        yield np.zeros((32, 33, 3), np.uint8)
        raise UserError("the source ends here")

    with pytest.raises(UserError, match="the source ends here"):
        video_writer.write_video(str(tmp_path / "x.mp4"), frames(), 25.0)
    assert not list(tmp_path.iterdir())
