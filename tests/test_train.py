"""The training loop: a whole run, its continuation, a step's properties."""

import json
import math
from unittest.mock import Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.loader import build_loader
from slowfast_uniformer.engine.meter import Sums
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.step import training_step
from slowfast_uniformer.engine.test import features
from slowfast_uniformer.engine.train import is_due, train
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.ops import depthwise
from slowfast_uniformer.ops.depthwise import _by_taps
from slowfast_uniformer.runs import checkpoints


def rows(folder, split):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def batch(count=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 4, 32, 32, generator=generator), torch.randint(8, (count,), generator=generator)


def start(tiny, *overrides):
    run = start_run(load_config(None, [*tiny, "UNIFORMER.DROP_DEPTH_RATE", 0, *overrides]), None)
    run.model.train()
    return run


def state_of(run):
    return {name: value.clone() for name, value in run.net.state_dict().items()}


def test_a_run_writes_its_files(tiny, run_net, tmp_path):
    status, _, errors = run_net([*tiny, "TENSORBOARD.ENABLE", True, "MIXUP.ENABLE", True, "AUG.ENABLE", True])
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


def test_a_continued_run_repeats_the_uninterrupted_one(tiny, tmp_path):
    options = [*tiny, "MIXUP.ENABLE", True, "MODEL.EMA_EPOCH", 0, "UNIFORMER.DROP_DEPTH_RATE", 0.5]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(load_config(None, [*options, "OUTPUT_DIR", str(straight)]))
    cfg = load_config(None, [*options, "OUTPUT_DIR", str(broken)])
    train(cfg)
    (broken / "checkpoints" / "epoch_00002.pyth").unlink()
    train(cfg)
    whole, parts = (checkpoints.load_checkpoint(checkpoints.checkpoint_path(str(out), 2)) for out in (straight, broken))
    for kind in ("model_state", "ema_state"):
        assert all(torch.equal(whole[kind][name], parts[kind][name]) for name in whole[kind])
    losses = [[(row["step"], row["loss"]) for row in rows(out, "train_iter")] for out in (straight, broken)]
    assert losses[0] == losses[1], "no gap, no repeat, the same numbers"


def test_parts_of_a_batch_add_up_to_the_whole(tiny):
    states = []
    for parts in (1, 4):
        run = start(tiny, "TRAIN.ACCUM_STEPS", parts, "SOLVER.OPTIMIZING_METHOD", "sgd")
        run.model.eval()
        step = training_step(run, *batch())
        states.append((state_of(run), step))
    (whole, one), (parts, four) = states
    torch.testing.assert_close(one.loss, four.loss)
    torch.testing.assert_close(one.norm, four.norm, rtol=1e-5, atol=0)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-5, atol=1e-6)


def test_a_step_that_is_not_finite_leaves_no_trace(tiny):
    run = start(tiny, "MODEL.EMA_EPOCH", 0)
    training_step(run, *batch())
    before, moments = (state_of(run), json.dumps(run.optimizer.state_dict()["state"], default=lambda t: t.tolist()))
    clips, labels = batch(seed=1)
    clips[3] = math.inf
    step = training_step(run, clips, labels)
    assert not step.updated
    assert all(torch.equal(before[name], value) for name, value in run.net.state_dict().items())
    assert moments == json.dumps(run.optimizer.state_dict()["state"], default=lambda t: t.tolist())
    assert training_step(run, *batch(seed=2)).updated


class Reads(TorchDispatchMode):
    """How often a tensor's value is asked for, which on a GPU waits for all that was begun."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_is_waited_for_once_and_its_figures_when_they_are_written(tiny):
    run = start(tiny)
    sums, losses, clips = Sums(), [], {"clips": range(8), "errors": []}
    with Reads() as reads:
        for seed in range(3):
            step = training_step(run, *batch(seed=seed))
            sums.add(clips, step, 0.0)
            losses.append(step.loss)
    assert reads.count == 3
    sums.add(clips, step._replace(updated=False, loss=step.loss * math.nan), 0.0)
    found = Sums(sums.state()).figures(run.device)
    assert found["loss"] == pytest.approx(float(sum(losses)) / 3) and math.isfinite(found["grad_norm"])
    assert sums.state()[0] == 3 and sums.state()[3] == 32 and found["clips_per_second"] > 0


def test_stops_after_bad_steps_in_a_row(tiny, run_net):
    status, _, errors = run_net([*tiny, "SOLVER.BASE_LR", 1e30, "SOLVER.CLIP_GRADIENT", 0, "TRAIN.MAX_BAD_STEPS", 2])
    assert status == 2 and "2 steps in a row" in errors and "SOLVER.BASE_LR" in errors
    assert "skipped" in errors and ".mp4" in errors, "names the clips of the skipped steps"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(tiny, precision):
    run = start(tiny, "TRAIN.MIXED_PRECISION", precision)
    losses = [float(training_step(run, *batch()).loss) for _ in range(40)]
    assert losses[-1] < losses[0] - 0.1
    assert all(p.dtype == torch.float32 for p in run.net.parameters())
    assert run.scaler.is_enabled() == (precision == "fp16")


def test_overfits_one_batch(tiny):
    run = start(tiny, "SOLVER.BASE_LR", 3e-3)
    for _ in range(120):
        step = training_step(run, *batch())
    assert step.loss < 0.1 and step.correct == 8


def test_moving_average_follows_and_is_what_is_evaluated(tiny):
    run = start(tiny, "MODEL.EMA_EPOCH", 0, "MODEL.EMA_DECAY", 0.9)
    assert run.best_net() is run.net
    training_step(run, *batch())
    first = state_of(run)
    training_step(run, *batch(seed=1))
    assert run.best_net() is run.ema.module
    name = "head.weight"
    expected = 0.9 * first[name] + 0.1 * run.net.state_dict()[name]
    torch.testing.assert_close(run.ema.module.state_dict()[name], expected)


@pytest.mark.slow
def test_compiled_blocks_take_the_same_steps(tiny, monkeypatch):
    """Two blocks of each stage and kind would take minutes to compile: one global block shows the way."""
    # setuptools, which the compiler imports, would not stand that another test has imported distutils
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")
    small = [
        "MODEL.MODEL_NAME",
        "Uniformer",
        "UNIFORMER.DEPTH",
        [0, 0, 1, 0],
        "MODEL.USE_CHECKPOINT",
        True,
        "MODEL.CHECKPOINT_NUM",
        [0, 0, 1, 0],
        "SOLVER.OPTIMIZING_METHOD",
        "sgd",
    ]
    runs = [start(tiny, *small, "MODEL.COMPILE", compiled) for compiled in (False, True)]
    gradient = Mock(wraps=_by_taps)
    monkeypatch.setattr(depthwise, "_by_taps", gradient)
    for seed in range(2):
        steps = [training_step(run, *batch(seed=seed)) for run in runs]
        torch.testing.assert_close(steps[0].loss, steps[1].loss, rtol=1e-5, atol=1e-6)
    assert gradient.call_count == 4, "depth-wise kernels get their gradients alike"
    eager, compiled = map(state_of, runs)
    assert eager.keys() == compiled.keys(), "names stay"
    for name in eager:
        torch.testing.assert_close(compiled[name], eager[name], rtol=1e-4, atol=1e-6)


def test_as_many_variants_of_a_block_are_compiled_as_a_model_has(tiny, monkeypatch):
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    deep = ["MODEL.MODEL_NAME", "Uniformer", "UNIFORMER.DEPTH", [1, 1, 7, 1], "MODEL.COMPILE", True]
    start(tiny, *deep)
    assert torch._dynamo.config.recompile_limit == 20  # ten blocks, in training and in evaluation


def test_light_models_train_on_both_heads(tiny):
    light = [
        "MODEL.MODEL_NAME",
        "Uniformer_light",
        "UNIFORMER.PRUNE_RATIO",
        "[[],[],[1],[0.5]]",
        "UNIFORMER.TRADE_OFF",
        "[[],[],[1],[0.5]]",
    ]
    run = start(tiny, *light)
    before = state_of(run)
    assert training_step(run, *batch()).updated
    changed = {
        name.split(".")[0] for name, value in run.net.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {"head", "head_cls"} <= changed


def test_weights_start_a_run_and_say_when_they_do_not_fit(tiny, tmp_path, run_net):
    assert run_net([*tiny, "SOLVER.MAX_EPOCH", 1, "TEST.ENABLE", False])[0] == 0
    weights = str(tmp_path / "run" / "checkpoints" / "epoch_00001.pyth")
    elsewhere = [*tiny, "OUTPUT_DIR", str(tmp_path / "other"), "MODEL.INIT_FROM", weights]
    run = start_run(load_config(None, elsewhere), None)
    trained = checkpoints.load_checkpoint(weights)["model_state"]
    assert all(torch.equal(trained[name], value) for name, value in run.net.state_dict().items())
    assert run.epoch == 0 and not run.optimizer.state_dict()["state"]
    ten = [*elsewhere, "MODEL.NUM_CLASSES", 10, "DATA.CLASS_NAMES", str(tmp_path / "ten.txt")]
    (tmp_path / "ten.txt").write_text("".join(f"c{i}\n" for i in range(10)))
    with pytest.raises(UserError, match="8.*MODEL.NUM_CLASSES.*10.*MODEL.INIT_HEAD new"):
        start_run(load_config(None, ten), None)
    assert start_run(load_config(None, [*ten, "MODEL.INIT_HEAD", "new"]), None).net.head.out_features == 10


def test_due():
    assert [epoch for epoch in range(1, 8) if is_due(3, epoch, 7)] == [3, 6, 7]


def test_projector_shows_what_the_classifier_reads(tiny, demo, tmp_path):
    cfg = load_config(None, [*tiny, "TENSORBOARD.ENABLE", True, "TENSORBOARD.PROJECTOR", True, "SOLVER.MAX_EPOCH", 1])
    train(cfg)
    (folder,) = (tmp_path / "run" / "tensorboard").glob("*/val")
    rows = [list(map(float, line.split("\t"))) for line in (folder / "tensors.tsv").read_text().splitlines()]
    names = (demo / "classes.txt").read_text().splitlines()
    labels = [int(line.split()[-1]) for line in (demo / "val.csv").read_text().splitlines()]
    assert (folder / "metadata.tsv").read_text().splitlines() == [names[label] for label in labels]

    run, loader = start_run(cfg, None), build_loader(cfg, "val")
    net = run.best_net().eval()
    clips = torch.cat([loader.dataset[0, video]["clips"] for video in range(len(labels))])
    with torch.inference_mode():
        torch.testing.assert_close(torch.tensor(rows), net.forward_features(clips), rtol=1e-4, atol=1e-5)
    found = features(net, loader, cfg, most=4)
    assert [video for video, *_ in found] == [0, 3, 6]
    assert found[0][2].shape == (3, 64, 64) and 0 <= found[0][2].min() < found[0][2].max() <= 1
