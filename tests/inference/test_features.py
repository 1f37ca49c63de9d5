"""Features: their values, and that neither the number of ranks nor interruptions change them."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pyarrow.parquet
import pytest
import torch
from conftest import ROOT
from safetensors import safe_open

from slowfast_uniformer import load_model
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.distributed.launch import _free_port
from slowfast_uniformer.inference import features
from slowfast_uniformer.inference.features import _map_in_order
from slowfast_uniformer.inference.inputs import find_videos
from slowfast_uniformer.inference.predictor import as_sample, config_of

# One of two ranks: writes a part for each video, and the rank DYING sends itself a signal after the second.
RANK = """
import os
from slowfast_uniformer.cli import common, features as command
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.inference import features
features.PART_SECONDS, write, parts = -1.0, features._write_part, []
def write_and_die(*part):
    write(*part)
    parts.append(part)
    if len(parts) == 2 and topology.rank() == int(os.environ["DYING"]):
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
features._write_part = write_and_die
common.finish(command.main)
"""


@pytest.fixture
def arguments(trained, demo):
    return ("--checkpoint", trained, demo / "val.csv", demo / "videos" / "left", "--workers", 0)


@pytest.fixture(scope="module")
def once(trained, demo, tmp_path_factory):
    """The features of `arguments`, computed without interruption."""
    out = tmp_path_factory.mktemp("once") / "once.safetensors"
    load = {"path": trained}
    videos = [str(demo / "val.csv"), str(demo / "videos" / "left")]
    features.extract(config_of(**load), load, videos, str(out))
    return out


def read(path) -> tuple[dict[str, torch.Tensor], dict]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(  # noqa: SIM118
            file.metadata()["slowfast_uniformer"]
        )


def test_a_row_is_the_classifiers_input(command, arguments, trained, tmp_path):
    out = tmp_path / "out.safetensors"
    status, printed, error = command("features", *arguments, "--output", out)
    assert status == 0 and f"{out}: features of " in printed, error
    tensors, about = read(out)
    model = load_model(trained)
    samples = find_videos([*map(str, arguments[2:4])], model.cfg)
    assert about["videos"] == [sample.path for sample in samples]
    assert about["class_names"] == model.names and about["cfg"]["DATA"]["NUM_FRAMES"] == 4
    for number, clips in enumerate(model.clips(samples)):
        expected = model.model.forward_features(clips)
        torch.testing.assert_close(tensors["features"][number], expected.mean(dim=0))
        prediction = model.predict(samples[number].path)
        assert tensors["label"][number] == prediction["label"]
        assert float(tensors["probability"][number]) == pytest.approx(prediction["probability"], abs=1e-5)
    assert os.listdir(tmp_path) == ["out.safetensors"]
    page = (ROOT / "docs" / "features_and_export.md").read_text()
    piece, read_by_it = page.split("```python\n")[1].split("```")[0], {}
    exec(piece.replace("runs/demo/features.safetensors", str(out)), read_by_it)
    assert read_by_it["videos"] == about["videos"]
    assert read_by_it["features"].tolist() == tensors["features"].tolist()
    status, printed, _ = command("features", *arguments, "--output", out)
    assert status == 0 and "exists already" in printed


def test_per_frame_rows_average_to_the_pooled(command, arguments, once, tmp_path):
    frames = tmp_path / "frames.safetensors"
    assert command("features", *arguments, "--output", frames, "--per-frame")[0] == 0
    (pooled, _), (frames, about) = read(once), read(frames)
    assert frames.keys() == {"features"} and about["per_frame"]
    assert frames["features"].shape == (len(about["videos"]), 2 * 2, 16)  # two views of two pairs of frames
    torch.testing.assert_close(frames["features"].mean(dim=1), pooled["features"])


def test_windows_have_rows_with_times(command, trained, model, demo, long_video, tmp_path, monkeypatch):
    """As many as in a timeline; an interruption changes nothing, and a video that cannot be read has a row, too."""
    short, bad = next((demo / "videos" / "up").iterdir()), tmp_path / "bad.mp4"
    bad.touch()
    words = ("--checkpoint", trained, long_video, bad, short, "--window", 2, "--stride", 1.5)
    out, parts = tmp_path / "out.safetensors", tmp_path / "parts.safetensors"
    assert command("features", *words, "--output", out)[0] == 2
    tensors, about = read(out)
    assert tensors["video"].tolist() == [0] * 5 + [1, 2] and about["window"] == 2 and about["stride"] == 1.5
    starts, ends = tensors["start"], tensors["end"]
    assert starts[:5].tolist() == pytest.approx([0, 1.48, 3, 4.48, 6]) and ends[4] == 8.0  # whole frames of 1/25 s
    assert starts[5].isnan() and tensors["features"][5].isnan().all() and tensors["label"][5] == -1
    with model.open(as_sample(long_video, model.cfg)) as video:
        expected, logits = model.features(model.window_clips(video, [75], 50.0))
    torch.testing.assert_close(tensors["features"][2:3], expected)
    assert tensors["label"][2] == logits.argmax() and tensors["probability"][2] == pytest.approx(
        float(logits.softmax(1).max()), abs=1e-5
    )
    asked = []
    monkeypatch.setattr(features, "PART_SECONDS", -1.0)
    monkeypatch.setattr(signals, "stop_requested", lambda: asked.append(0) or len(asked) >= 2)
    assert command("features", *words, "--output", parts)[0] == 75
    monkeypatch.undo()
    assert command("features", *words, "--output", parts)[0] == 2 and parts.read_bytes() == out.read_bytes()
    assert command("features", *words[:-1], 2, "--output", out)[0] == 2  # another stride: something else
    table = tmp_path / "out.parquet"
    command("features", *words, "--output", table)
    rows = pyarrow.parquet.read_table(table).to_pylist()
    assert [row["video"] for row in rows] == [str(long_video)] * 5 + [str(bad), str(short)]
    assert [row["start"] for row in rows][4:6] == [6.0, None] and rows[5]["features"] is None and rows[5]["error"]
    assert rows[2]["features"] == tensors["features"][2].tolist()


def test_windows_may_leave_gaps(command, trained, long_video, tmp_path):
    out = tmp_path / "out.safetensors"
    words = ("--checkpoint", trained, long_video, "--stride", 3, "--output", out)
    assert command("features", *words, "--window", 1)[0] == 0
    assert read(out)[0]["start"].tolist() == [0, 3, 7] and read(out)[0]["end"].tolist() == [1, 4, 8]
    status, _, error = command("features", *words, "--per-frame")
    assert status == 2 and "--per-frame cannot be combined" in error


def two_ranks(arguments, dying: int, number: signal.Signals) -> tuple[list[int], str]:
    """Run both until one gets a signal; their exit statuses and standard error."""
    port = str(_free_port())
    env = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DYING": str(dying), "SIGNAL": str(int(number))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, *map(str, arguments)],
            env={**env, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    printed = "".join(process.communicate(timeout=120)[1] for process in processes)
    return [process.returncode for process in processes], printed


@pytest.mark.slow
def test_two_ranks_interrupted_twice_give_the_same_bytes(command, arguments, once, tmp_path):
    parts = tmp_path / "parts.safetensors"
    (first, second), printed = two_ranks((*arguments, "--output", parts), 1, signal.SIGKILL)
    assert second == -signal.SIGKILL and first == 2 and "another rank has ended" in printed, printed
    left = len(os.listdir(f"{parts}.parts"))
    assert 2 <= left < len(read(once)[1]["videos"]) and not parts.exists()
    statuses, printed = two_ranks((*arguments, "--output", parts), 0, signal.SIGTERM)
    assert 75 in statuses and "run the same command again to continue" in printed, printed
    assert len(os.listdir(f"{parts}.parts")) > left and not parts.exists()
    status, _, error = command("features", *arguments, "--output", parts)
    assert status == 0, error
    assert parts.read_bytes() == once.read_bytes()
    assert os.listdir(tmp_path) == ["parts.safetensors"]


def test_interrupted_runs_continue_and_give_the_same_bytes(command, arguments, once, tmp_path, monkeypatch):
    out, asked = tmp_path / "parts.safetensors", []
    monkeypatch.setattr(features, "PART_SECONDS", -1.0)  # a part for each video
    monkeypatch.setattr(signals, "stop_requested", lambda: asked.append(0) or len(asked) >= 3)
    status, _, error = command("features", *arguments, "--output", out)
    assert status == 75 and "run the same command again to continue" in error
    assert len(os.listdir(f"{out}.parts")) == 3 and not out.exists()
    monkeypatch.setattr(signals, "stop_requested", lambda: False)
    assert command("features", *arguments, "--output", out)[0] == 0
    assert out.read_bytes() == once.read_bytes() and os.listdir(tmp_path) == [out.name]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_keep_the_order_and_take_no_more_than_they_need(threads):
    taken = []
    found = _map_in_order(lambda item: item * item, map(lambda n: taken.append(n) or n, range(20)), threads)
    assert next(found) == 0 and len(taken) <= threads + 1
    assert [0, *found] == [n * n for n in range(20)]


def test_parts_of_another_job_are_refused(command, arguments, tmp_path, monkeypatch):
    out = tmp_path / "out.safetensors"
    monkeypatch.setattr(signals, "stop_requested", lambda: True)
    status, _, printed = command("features", *arguments, "--output", out)
    assert status == 75 and "run the same command again to continue" in printed
    monkeypatch.undo()
    for changed in (
        (*arguments, "--set", "TEST.NUM_ENSEMBLE_VIEWS", 3),
        (*arguments[:3], "--workers", 0),
        (*arguments, "--per-frame"),
    ):
        status, _, error = command("features", *changed, "--output", out)
        assert status == 2 and "computed for other videos, weights or settings" in error
    for part in (tmp_path / "out.safetensors.parts").iterdir():
        part.write_bytes(part.read_bytes()[:100])
    assert command("features", *arguments, "--output", out)[0] == 0  # what is damaged is computed again
    status, _, error = command("features", *arguments, "--output", out, "--per-frame")
    assert status == 2 and "holds features of other videos" in error


def test_what_could_not_be_read_is_tried_again(command, arguments, once, demo, tmp_path, monkeypatch):
    out, asked, away = tmp_path / "out.safetensors", [], demo / "away"
    monkeypatch.setattr(signals, "stop_requested", lambda: asked.append(0) or len(asked) >= 9)
    (demo / "videos" / "left").rename(away)  # as a mount that is away for a while
    try:
        (demo / "videos" / "left").mkdir()
        for path in away.iterdir():
            (demo / "videos" / "left" / path.name).touch()
        status, _, error = command("features", *arguments, "--output", out)
        assert status == 75 and len(os.listdir(f"{out}.parts")) == 1, error
    finally:
        shutil.rmtree(demo / "videos" / "left")
        away.rename(demo / "videos" / "left")
    monkeypatch.undo()
    status, _, error = command("features", *arguments, "--output", out)
    assert status == 0 and out.read_bytes() == once.read_bytes(), error


def test_parquet_and_videos_that_cannot_be_read(command, arguments, trained, demo, tmp_path):
    bad = tmp_path / 'it\'s "bad" ünd empty.mp4'
    bad.touch()
    good = tmp_path / "-a good one.mp4"
    shutil.copy(next((demo / "videos" / "left").iterdir()), good)
    out, same = tmp_path / "out.parquet", tmp_path / "out.safetensors"
    for path in (out, same):
        status, printed, error = command("features", "--checkpoint", trained, "--output", path, "--", bad, good)
        assert status == 2 and "1 of 2 videos could not be read" in error and "Traceback" not in error
        assert error.count(str(bad)) == 1 and "features of 1 video" in printed
    tensors, about = read(same)
    assert tensors["features"][0].isnan().all() and tensors["label"].tolist()[0] == -1
    assert list(about["errors"]) == [str(bad)]
    first, second = pyarrow.parquet.read_table(out).to_pylist()
    assert first["features"] is None and first["class"] is None and str(bad) in first["error"]
    assert second["features"] == tensors["features"][1].tolist() and second["error"] is None
    assert second["class"] == about["class_names"][second["label"]] and second["video"] == str(good)
    frames = tmp_path / "new" / "folder" / "frames.parquet"
    command("features", "--checkpoint", trained, "--per-frame", "--output", frames, "--", bad, good)
    first, second = pyarrow.parquet.read_table(frames).to_pylist()
    assert first["features"] is None and [len(row) for row in second["features"]] == [16] * 4


@pytest.mark.parametrize(
    "given, message",
    [
        ("--output {tmp}/out.txt {video}", "must end in .safetensors or .parquet"),
        ("--output {video}/out.parquet {video}", "cannot be written; name a file"),
        ("--output {tmp}/out.safetensors {tmp}/none.mp4", "none of 1 video could be read"),
        ("--output {tmp}/out.safetensors {checkpoint}", "none of 1 video could be read"),
        ("--output {tmp}/out.safetensors {tmp}", "a folder without any files"),
        ("--output {tmp}/out.safetensors {video} --set NUM_GPUS none", "NUM_GPUS"),
    ],
)
def test_one_message_for_bad_input(command, trained, demo, tmp_path, given, message):
    video = next((demo / "videos" / "left").iterdir())
    checkpoint = next((trained / "checkpoints").iterdir())
    words = given.format(tmp=tmp_path, video=video, checkpoint=checkpoint).split()
    status, _, error = command("features", "--checkpoint", trained, *words)
    assert status == 2 and message in error and "Traceback" not in error
    assert not os.listdir(tmp_path)


def test_a_model_without_frames_says_so(command, arguments, tmp_path, monkeypatch):
    from slowfast_uniformer.models.uniformer import _FourStages

    monkeypatch.delattr(_FourStages, "forward_frames")
    out = tmp_path / "out.safetensors"
    status, _, error = command("features", *arguments, "--output", out, "--per-frame")
    assert status == 2 and "no features of single frames" in error and not os.listdir(tmp_path)
