"""A run on unbalanced classes: what it applies, what it says of it, and that it resumes exactly."""

import json
import logging
import os
import signal

import pytest
import torch
from processes import assert_same_end

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.engine import train as training
from slowfast_uniformer.engine.step import compute_loss
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.class_balance import read_class_balance

MIXED = ["MIXUP.ENABLE", True, "TRAIN.BATCH_SIZE", 4, "SOLVER.CLASS_WEIGHTS", "inverse", "SOLVER.FOCAL_GAMMA", 1.0]
MIXED += ["UNIFORMER.DROP_DEPTH_RATE", 0.5, "MODEL.EMA_EPOCH", 0]


@pytest.fixture
def unbalanced(demo, tmp_path, tiny):
    """Overrides of a run with 6, 2 and 1 videos of the first three classes, and none of the fourth."""
    lines = (demo / "train.csv").read_text().splitlines()
    of_label = {label: [line for line in lines if line.endswith(f" {label}")] for label in range(8)}
    chosen = [*(of_label[0] * 3)[:6], *of_label[1], of_label[2][0], *(of_label[k][0] for k in range(4, 8))]
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "train.csv").write_text("\n".join(chosen))
    for name in ("val.csv", "test.csv", "classes.txt"):
        (folder / name).write_text((demo / name).read_text())
    return [*tiny, "DATA.PATH_TO_DATA_DIR", str(folder), "SOLVER.MAX_EPOCH", 1]


@pytest.fixture
def losses(monkeypatch):
    """The weights and the exponent of each loss."""
    seen = []

    def loss(output, targets, multi_label, class_weights=None, focal_gamma=0.0):
        seen.append((class_weights, focal_gamma))
        return compute_loss(output, targets, multi_label, class_weights, focal_gamma)

    monkeypatch.setattr("slowfast_uniformer.engine.step.compute_loss", loss)
    return seen


def test_what_is_applied_is_logged_and_written_by_class(unbalanced, losses, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    options = ["DATA.SAMPLER", "sqrt", "SOLVER.CLASS_WEIGHTS", "inverse", "SOLVER.FOCAL_GAMMA", 2.0]
    training.train(load_config(None, [*unbalanced, *options]))
    names = (tmp_path / "lists" / "classes.txt").read_text().split()
    found = read_class_balance(str(tmp_path / "run"))
    assert [row.name for row in found] == names and [row.label for row in found] == list(range(8))
    assert [row.videos for row in found] == [6, 2, 1, 0, 1, 1, 1, 1]
    root = [6**0.5, 2**0.5, 1, 0, 1, 1, 1, 1]
    assert [row.draws for row in found] == pytest.approx([13 * r / sum(root) for r in root], abs=0.01)
    inverse = [13 / 7 / row.videos if row.videos else 0 for row in found]
    assert [row.weight for row in found] == pytest.approx(inverse, 1e-3)
    ((weights, gamma),) = losses
    assert weights.tolist() == pytest.approx([row.weight for row in found], 1e-3) and gamma == 2
    title = "classes: DATA.SAMPLER sqrt, SOLVER.CLASS_WEIGHTS inverse; videos drawn in an epoch, and weight in the loss"
    begin = caplog.messages.index(f"{title}:")
    assert caplog.messages[begin + 2].split() == ["0", "0.0", "0", names[3]]
    assert caplog.messages[begin + 9].split() == ["6", "3.6", "0.31", names[0]]
    assert f"1 class without training videos has weight 0: {names[3]}" in caplog.messages
    assert any("their effects multiply" in line for line in caplog.messages)


def test_by_default_all_classes_are_alike_and_nothing_is_written(unbalanced, losses, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    training.train(load_config(None, [*unbalanced, "DATA.SAMPLER", "balanced"]))
    assert len(read_class_balance(str(tmp_path / "run"))) == 8 and losses == [(None, 0.0)]
    assert not any("weight 0" in line for line in caplog.messages), "the sampler gives no weights"
    caplog.clear()
    training.train(load_config(None, [*unbalanced, "SOLVER.MAX_EPOCH", 2]))
    assert read_class_balance(str(tmp_path / "run")) == [], "the table of the former start is gone"
    assert "changed since the checkpoint: DATA.SAMPLER: balanced -> uniform" in caplog.messages
    assert not any("videos drawn" in line for line in caplog.messages)


def test_a_run_that_is_interrupted_in_mid_epoch_resumes_bit_exactly(unbalanced, tmp_path, monkeypatch):
    options = [*unbalanced, *MIXED, "SOLVER.MAX_EPOCH", 2, "DATA.SAMPLER", "balanced"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    training.train(load_config(None, [*options, "OUTPUT_DIR", str(straight)]))
    cfg = load_config(None, [*options, "OUTPUT_DIR", str(broken)])
    step = training.training_step

    def stopping(run, *others):
        if run.step == 3:
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(run, *others)

    with monkeypatch.context() as patched, pytest.raises(signals.Interrupted), signals.handle_signals():
        patched.setattr(training, "training_step", stopping)
        training.train(cfg)
    (written,) = [path for path in checkpoints.list_checkpoints(str(broken)) if "step" in path]
    state = checkpoints.load_checkpoint(written)
    assert state["iter"] == 1 and state["seen"] == 4, "one step of the second epoch"
    training.train(cfg)
    assert_same_end(straight, broken)


def test_pos_weight_of_several_labels(unbalanced, losses, tmp_path):
    lists = tmp_path / "lists"
    for name in ("train.csv", "val.csv"):
        lines = (lists / name).read_text().splitlines()
        (lists / name).write_text("\n".join(f"{line},0" if k % 2 else line for k, line in enumerate(lines)))
    training.train(load_config(None, [*unbalanced, "DATA.MULTI_LABEL", True, "SOLVER.CLASS_WEIGHTS", "inverse"]))
    found = read_class_balance(str(tmp_path / "run"))
    assert losses[0][0].tolist() == pytest.approx([row.weight for row in found], 1e-3)
    assert sum(row.videos * row.weight for row in found) == pytest.approx(sum(row.videos for row in found), rel=1e-3)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert torch.isfinite(torch.tensor([row["loss"] for row in rows if row["split"] == "train_iter"])).all()
