"""The training loop: a whole run, its files, its continuation."""

import json
import logging
import math

import pytest
import torch
from conftest import tiny_overrides
from processes import record

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.loader import build_loader
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.test import features
from slowfast_uniformer.engine.train import is_due, log_run_summary, train
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints


def rows(folder, split):
    return [row for row in record(folder) if row["split"] == split]


def test_a_run_writes_its_files(tiny, demo, run_net, tmp_path):
    """With TensorBoard's projector, which shows what the classifier reads."""
    board = ["TENSORBOARD.ENABLE", True, "TENSORBOARD.PROJECTOR", True]
    options = [*tiny, *board, "MIXUP.ENABLE", True, "AUG.ENABLE", True]
    status, _, errors = run_net(options)
    assert status == 0, errors
    run = tmp_path / "run"
    assert {p.name for p in run.iterdir()} >= {"config.yaml", "metrics.jsonl", "predictions.csv", "checkpoints"}
    assert list((run / "tensorboard").iterdir())
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
    again = load_config(str(run / "config.yaml"))
    assert again.SOLVER.MAX_EPOCH == 2

    (folder,) = (run / "tensorboard").glob("*/val")
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


def test_a_continued_run_repeats_the_uninterrupted_one(tiny, tmp_path):
    options = [*tiny, "MIXUP.ENABLE", True, "MODEL.EMA_EPOCH", 0, "UNIFORMER.DROP_DEPTH_RATE", 0.5]
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
    expected = "16 videos, 1 steps an epoch, epochs 1 to 2; global batch 16 videos (48 clips), learning rate 0.002"
    assert caplog.messages[-1] == expected
    run.epochs_finished = 2
    log_run_summary(run, loader)
    assert caplog.messages[-1] == "training is complete: all 2 epochs are done"


def test_is_due():
    assert [epoch for epoch in range(1, 8) if is_due(3, epoch, 7)] == [3, 6, 7]
