"""The training loop: a whole run, its files, its continuation."""

import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_overrides
from device_reads import DeviceReads
from processes import record

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.loader import build_loader
from slowfast_uniformer.data.mixup import Mixup
from slowfast_uniformer.engine import test as test_module
from slowfast_uniformer.engine import train as train_module
from slowfast_uniformer.engine.state import RunState, start_run
from slowfast_uniformer.engine.test import features
from slowfast_uniformer.engine.train import is_due, log_run_summary, train
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.log import Phase
from slowfast_uniformer.runs.recorder import Recorder


def rows(folder, split):
    return [row for row in record(folder) if row["split"] == split]


def test_a_run_writes_its_files(tiny, demo, run_net, tmp_path):
    """With TensorBoard's projector, which shows what the classifier reads, and clips that are made on the device."""
    board = ["TENSORBOARD.ENABLE", True, "TENSORBOARD.PROJECTOR", True, "AUG.DEVICE", "device"]
    options = [*tiny, *board, "MIXUP.ENABLE", True, "AUG.ENABLE", True]
    status, _, errors = run_net(options)
    assert status == 0, errors
    run = tmp_path / "run"
    assert {p.name for p in run.iterdir()} >= {"config.yaml", "metrics.jsonl", "predictions.csv", "checkpoints"}
    assert list((run / "tensorboard/run").glob("events.*"))
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"epoch_00001.pyth", "epoch_00002.pyth", "best.pyth"}
    steps = rows(run, "train_iter")
    assert [row["step"] for row in steps] == [1, 2, 3, 4] and all(math.isfinite(row["loss"]) for row in steps)
    assert len(rows(run, "train_epoch")) == len(rows(run, "val_epoch")) == 2
    (final,) = rows(run, "test_final")
    assert final["num_videos"] == 9 and final["coverage"] == 100
    predictions = (run / "predictions.csv").read_text().splitlines()
    assert len(predictions) == 10 and predictions[0].startswith("video,label,label_name,prediction")
    correct = sum(int(line.split(",")[5]) for line in predictions[1:])
    assert final["top1_acc"] == pytest.approx(100 * correct / 9)
    again = load_config(str(run / "config.yaml"), ["AUG.DEVICE", "cpu"])
    assert again.SOLVER.MAX_EPOCH == 2

    (folder,) = (run / "tensorboard/run").glob("*/val")
    shown = [list(map(float, line.split("\t"))) for line in (folder / "tensors.tsv").read_text().splitlines()]
    names = (demo / "classes.txt").read_text().splitlines()
    labels = [int(line.split()[-1]) for line in (demo / "val.csv").read_text().splitlines()]
    assert (folder / "metadata.tsv").read_text().splitlines() == [names[label] for label in labels]

    resumed, loader = start_run(again, None), build_loader(again, "val")
    net = resumed.unsharded_eval_model().eval()
    clips = torch.cat([loader.dataset[0, video]["clips"] for video in range(len(labels))])
    with torch.inference_mode():
        torch.testing.assert_close(torch.tensor(shown), net.forward_features(clips), rtol=1e-4, atol=1e-5)
    found = features(net, loader, again, most=4)
    assert [video for video, *_ in found] == [0, 3, 6]
    assert found[0][2].shape == (3, 64, 64) and 0 <= found[0][2].min() < found[0][2].max() <= 1


def test_faults_of_pictures_end_no_run_and_change_nothing(tiny, tmp_path, monkeypatch, caplog):
    """Names that are formulas to Matplotlib, pictures and features that raise: the same weights as without them."""
    options = [*tiny, "SOLVER.MAX_EPOCH", 1]
    plain, drawn = tmp_path / "plain", tmp_path / "drawn"
    train(load_config(None, [*options, "OUTPUT_DIR", str(plain)]))
    (tmp_path / "classes.txt").write_text("".join(f"$a% {k}$ {{b}}\n" for k in range(8)))
    board = ["TENSORBOARD.ENABLE", True, "TENSORBOARD.PROJECTOR", True, "DATA.CLASS_NAMES", tmp_path / "classes.txt"]
    calls = []

    def fail(*_):
        calls.append("clips")
        raise RuntimeError("no picture")

    def noted(name, function):
        return lambda *args: (calls.append(name), function(*args))[1]

    monkeypatch.setattr(train_module, "to_display", fail)
    monkeypatch.setattr("slowfast_uniformer.engine.test.to_display", fail)
    monkeypatch.setattr(RunState, "save", noted("checkpoint", RunState.save))
    monkeypatch.setattr(train_module, "record_evaluation", noted("pictures", train_module.record_evaluation))
    monkeypatch.setattr(Recorder, "write", lambda self, step, row: calls.append(row["split"]))
    train(load_config(None, [*options, *map(str, board), "OUTPUT_DIR", str(drawn)]))
    assert calls[-5:] == ["val_epoch", "checkpoint", "pictures", "clips", "clips"]
    said = [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]
    said = [line for line in said if "the run goes on" in line]
    assert len(said) == 2 and said[0].startswith(
        "the pictures of a validation cannot be written (RuntimeError: no pict"
    )
    assert said[1].startswith("the projector cannot be written (UserError: features of the validation clips: RuntimeEr")
    one, other = (checkpoints.load_checkpoint(checkpoints.checkpoint_path(str(out), 1)) for out in (plain, drawn))
    assert all(torch.equal(one["model_state"][name], other["model_state"][name]) for name in one["model_state"])


def test_slow_steps_write_lines(tiny, monkeypatch, caplog):
    """Where those of LOG_PERIOD come seldom."""
    caplog.set_level(logging.INFO)
    cfg = load_config(None, [*tiny, "TRAIN.BATCH_SIZE", 4, "SOLVER.MAX_EPOCH", 1, "LOG_PERIOD", 100])
    phases = []

    class SlowPhase(Phase):
        def __init__(self, title, *args, **options):
            self.now = 0.0
            super().__init__(title, *args, **options, clock=lambda: self.now)
            phases.append(title)

        def advance(self, count=1):
            super().advance(count)
            self.now += 45
            self.write_if_due()

    for module in (train_module, test_module):
        monkeypatch.setattr(module, "Phase", SlowPhase)
    train(cfg)
    assert phases == ["epoch 1", "validation"]
    assert [line for line in caplog.messages if " left" in line] == [
        "epoch 1: 1 of 4 steps, 2 min left",
        "epoch 1: 3 of 4 steps, 45 s left",
        "validation: 8 of 9 videos, 6 s left",
    ]


@pytest.mark.parametrize("device", ["cpu", "device"])
def test_a_continued_run_repeats_the_uninterrupted_one(tiny, tmp_path, device):
    options = [*tiny, "MIXUP.ENABLE", True, "MODEL.EMA_EPOCH", 0, "UNIFORMER.DROP_DEPTH_RATE", 0.5]
    options += ["AUG.ENABLE", True, "AUG.DEVICE", device, "TRAIN.ACCUM_STEPS", 1 if device == "cpu" else 2]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(load_config(None, [*options, "OUTPUT_DIR", str(straight)]))
    cfg = load_config(None, [*options, "OUTPUT_DIR", str(broken)])
    train(cfg)
    (broken / "checkpoints" / "epoch_00002.pyth").unlink()
    train(cfg)
    whole, resumed = (
        checkpoints.load_checkpoint(checkpoints.checkpoint_path(str(out), 2)) for out in (straight, broken)
    )
    for kind in ("model_state", "ema_state"):
        assert all(torch.equal(whole[kind][name], resumed[kind][name]) for name in whole[kind])
    losses = [[(row["step"], row["loss"]) for row in rows(out, "train_iter")] for out in (straight, broken)]
    assert losses[0] == losses[1], "no gap, no repeat, the same numbers"


def test_stops_after_consecutive_skipped_steps(tiny, run_net, tmp_path):
    status, _, errors = run_net([*tiny, "SOLVER.BASE_LR", 1e30, "SOLVER.CLIP_GRADIENT", 0, "TRAIN.MAX_BAD_STEPS", 2])
    assert status == 2 and "2 steps in a row" in errors and "SOLVER.BASE_LR" in errors
    assert "skipped" in errors and ".mp4" in errors, "names the videos of the skipped steps"
    skipped = [json.loads(line) for line in (tmp_path / "run" / "skipped_steps.jsonl").read_text().splitlines()]
    assert all({"step", "rank", "loss", "grad_norm", "videos"} == row.keys() for row in skipped)


@pytest.fixture
def spoil(monkeypatch):
    """A function that has the clips of the optimizer steps of these numbers not finite, counted from 1 in a run."""
    step = train_module.training_step

    def spoil(*numbers):
        def spoiled(run, clips, *others):
            return step(run, clips * (math.nan if run.step + 1 in numbers else 1), *others)

        monkeypatch.setattr(train_module, "training_step", spoiled)

    return spoil


def skipped(folder):
    return [json.loads(line) for line in (folder / "skipped_steps.jsonl").read_text().splitlines()]


def test_skipped_steps_are_told_at_the_next_log_line(tiny, tmp_path, spoil, caplog):
    """Four steps an epoch, a line after the third and the fourth."""
    spoil(2, 3, 4, 5)
    out = tmp_path / "run"
    out.mkdir()
    train(load_config(None, [*tiny, "TRAIN.BATCH_SIZE", 4, "LOG_PERIOD", 3, "TRAIN.MAX_BAD_STEPS", 5]))
    found = skipped(out)
    assert [row["step"] for row in found] == [2, 3, 4, 5]
    assert all(row["loss"] == row["grad_norm"] == "nan" and row["rank"] == 0 for row in found)
    told = [line for line in caplog.messages if "skipped: loss nan, gradient norm nan; its videos: " in line]
    named = [f"{', '.join(row['videos'][:3])} and 1 more (skipped_steps.jsonl)" for row in found]
    assert [line.split(": ")[-1] for line in told] == named
    assert all(len(set(row["videos"])) == 4 and all(v.endswith(".mp4") for v in row["videos"]) for row in found)
    lines = rows(out, "train_iter")
    assert [row["skipped_steps"] for row in lines] == [2, 3, 4, 4]
    assert [math.isfinite(row["loss"] or math.nan) for row in lines] == [True, False, True, True]
    assert [row["skipped_steps"] for row in rows(out, "train_epoch")] == [3, 4]


def test_consecutive_skipped_steps_are_counted_across_log_lines_and_starts(tiny, tmp_path, spoil):
    """A checkpoint within a window has the counts of all steps before it, so a continued run stops where the
    uninterrupted one does."""
    spoil(3, 4, 5, 6)
    (tmp_path / "run").mkdir()
    options = [*tiny, "TRAIN.BATCH_SIZE", 4, "LOG_PERIOD", 3, "TRAIN.CHECKPOINT_STEPS", 5, "TRAIN.EVAL_PERIOD", 0]
    stopped = "stopped at step 7: 4 steps in a row had a loss or gradient that is not finite"
    for _ in range(2):
        with pytest.raises(UserError, match=stopped):
            train(load_config(None, [*options, "TRAIN.MAX_BAD_STEPS", 4]))
    assert [row["step"] for row in skipped(tmp_path / "run")] == [3, 4, 5, 6, 6], "the last ones of each start"
    latest = checkpoints.load_checkpoint(checkpoints.latest(str(tmp_path / "run")))
    assert (latest["step"], latest["skipped_steps"], latest["bad_in_a_row"]) == (5, 3, 3)
    train(load_config(None, [*options, "TRAIN.MAX_BAD_STEPS", 5]))


def test_a_run_whose_steps_were_all_skipped_has_no_optimizer_state(tiny, tmp_path, spoil):
    spoil(*range(1, 5))
    (tmp_path / "run").mkdir()
    options = ["TRAIN.BATCH_SIZE", 4, "LOG_PERIOD", 100, "SOLVER.OPTIMIZING_METHOD", "sgd", "SOLVER.MAX_EPOCH", 1]
    train(load_config(None, [*tiny, *options]))
    saved = checkpoints.load_checkpoint(checkpoints.latest(str(tmp_path / "run")))
    assert saved["optimizer_state"]["state"] == {} and saved["skipped_steps"] == 4


@pytest.mark.parametrize(
    ("precision", "device"), [("none", "cpu"), ("none", "device"), ("bf16", "cpu"), ("fp16", "cpu")]
)
def test_the_loop_reads_from_the_device_at_log_lines_alone(tiny, tmp_path, monkeypatch, precision, device):
    """Batches come ready, as of DataLoader workers; one step is not finite."""
    options = ["TRAIN.BATCH_SIZE", 2, "LOG_PERIOD", 4, "MODEL.EMA_EPOCH", 0, "MIXUP.ENABLE", True]
    options += ["AUG.ENABLE", True, "AUG.AA_TYPE", "rand-m7-n4-mstd0.5-inc1", "AUG.DEVICE", device]
    cfg = load_config(None, [*tiny, *options, "TRAIN.MIXED_PRECISION", precision])
    (tmp_path / "run").mkdir()
    loader = build_loader(cfg, "train")
    ready = list(loader)
    if device == "device":
        ready[1]["clips"].values = ready[1]["clips"].values._replace(shift=(math.inf,) * 3)
    else:
        ready[1]["clips"][0] = math.inf
    monkeypatch.setattr(train_module, "worker_errors_explained", lambda *_: ready)
    run, recorder = start_run(cfg, None), Recorder(cfg.OUTPUT_DIR, False, 0, "")
    reads_after = []

    def advance(self, count=1):
        reads_after.append(len(reads.found))
        reads.found.clear()

    monkeypatch.setattr(Phase, "advance", advance)
    with DeviceReads() as reads:
        train_module.train_one_epoch(run, loader, Mixup(cfg), recorder)
    assert [count > 0 for count in reads_after] == [False, False, False, True] * 2
    assert run.skipped_steps == 1 and [row["step"] for row in skipped(tmp_path / "run")] == [2]


def test_weights_start_a_run_or_an_error_says_that_they_do_not_fit(demo, trained, tmp_path):
    (weights,) = map(str, (trained / "checkpoints").glob("*.pyth"))
    elsewhere = [*tiny_overrides(demo, tmp_path / "other"), "MODEL.INIT_FROM", weights]
    run = start_run(load_config(None, elsewhere), None)
    saved = checkpoints.load_checkpoint(weights)["model_state"]
    assert all(torch.equal(saved[name], value) for name, value in run.net.state_dict().items())
    assert run.epoch == 0 and not run.optimizer.state_dict()["state"]
    ten = [*elsewhere, "MODEL.NUM_CLASSES", 10, "DATA.CLASS_NAMES", str(tmp_path / "ten.txt")]
    (tmp_path / "ten.txt").write_text("".join(f"c{i}\n" for i in range(10)))
    with pytest.raises(UserError, match="8.*MODEL.NUM_CLASSES.*10.*MODEL.INIT_HEAD new"):
        start_run(load_config(None, ten), None)
    assert start_run(load_config(None, [*ten, "MODEL.INIT_HEAD", "new"]), None).net.head.out_features == 10


def test_the_log_has_the_global_batch_and_learning_rate_that_apply(tiny, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    scaled = ["AUG.ENABLE", True, "AUG.NUM_SAMPLE", 3, "SOLVER.BASE_LR_SCALE_NUM_SHARDS", True]
    cfg = load_config(None, [*tiny, *scaled])
    loader = build_loader(cfg, "train")
    monkeypatch.delenv("WORLD_SIZE")
    run = start_run(cfg, None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    log_run_summary(run, loader)
    expected = "training on 16 videos: 1 step an epoch, epochs 1 to 2; global batch 16 videos (48 clips)"
    expected += ", learning rate 0.002"
    expected += " (SOLVER.BASE_LR 0.001 x 2 machines, by SOLVER.BASE_LR_SCALE_NUM_SHARDS)"
    assert caplog.messages[-1] == expected
    run.epochs_finished = 2
    log_run_summary(run, loader)
    assert caplog.messages[-1] == "training is complete: 2 epochs done"


def test_the_clips_shown_are_always_the_same_and_of_many_classes(monkeypatch):
    """Also where the list has the classes in turn, and where a video cannot be read in one of the validations."""

    class Dataset(list):
        samples = [SimpleNamespace(labels=[i % 8]) for i in range(240)]

        def __getitem__(self, place):
            return {"clips": place[1]}

    monkeypatch.setattr(train_module, "to_device", lambda video, device: [video])
    monkeypatch.setattr(train_module, "to_display", lambda video, cfg: video)
    run = SimpleNamespace(device=None, cfg=None, step=1, class_name=str)
    shown = []
    recorder = SimpleNamespace(tensorboard=True, clips=lambda section, clips, captions, step: shown.append(clips))
    scores = SimpleNamespace(predicted=torch.ones(240, dtype=torch.bool), probabilities=lambda: torch.eye(240, 8))
    loader = SimpleNamespace(dataset=Dataset(range(240)))
    for failed in (None, None, 0):
        scores.predicted[shown[0][0] if failed is not None else []] = False
        train_module.show_clips(run, loader, scores, recorder)
    assert shown[0] == shown[1] == sorted(set(shown[0])) and len(shown[0]) == 8
    assert {video % 8 for video in shown[0]} == {video % 8 for video in shown[2]} == set(range(8))
    assert shown[0][0] not in shown[2] and set(shown[0][1:]) < set(shown[2]) and len(shown[2]) == 8


def test_is_due():
    assert [epoch for epoch in range(1, 8) if is_due(3, epoch, 7)] == [3, 6, 7]
    assert not any(is_due(0, epoch, 7) for epoch in range(1, 8))
