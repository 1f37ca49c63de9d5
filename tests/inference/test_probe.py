"""`uniformer probe`: stored features, the table, and checkpoints with the fitted heads."""

import os

import pytest
import torch
from safetensors import safe_open
from tiny_models import LIGHT, V2

from slowfast_uniformer import load_model
from slowfast_uniformer.data import annotations
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.engine import attentive_heads, linear_heads
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference import features, probe
from slowfast_uniformer.inference.predictor import config_of
from slowfast_uniformer.runs import checkpoints


def stored(folder, split: str = "train") -> torch.Tensor:
    with safe_open(os.path.join(folder, f"{split}.safetensors"), "pt") as file:
        return file.get_tensor("features")


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    monkeypatch.setattr(attentive_heads, "EPOCHS", 2)
    monkeypatch.setattr(attentive_heads, "GRID", (attentive_heads.Setting(0.03, 0.1), attentive_heads.Setting(0.01, 1)))
    monkeypatch.setattr(linear_heads, "PENALTIES", (0.01, 1.0))


@pytest.fixture(scope="module")
def cache(trained, tmp_path_factory) -> str:
    """The folder of the stored features of `trained`."""
    folder = str(tmp_path_factory.mktemp("cache"))
    load = {"path": trained}
    probe.probe(config_of(**load), load, ["knn"], folder, folds=2)
    return folder


def test_stored_are_the_features_and_tokens_of_every_view(trained, cache):
    model = load_model(trained, new_head=True)
    samples = list(annotations.load(model.cfg, "val"))
    values = stored(cache, "val")
    assert values.shape == (9, 2 * 3, 2, 1 + 1, 16) and values.dtype == torch.float16
    for row, clips in zip(values.float(), model.clips(samples), strict=True):
        found, tokens = model.model.forward_tokens(clips, 4)
        torch.testing.assert_close(row[:, 1, 0], found, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(row[:, :, 1:], tokens, rtol=2e-3, atol=2e-3)


def test_the_command_prints_a_table_from_what_is_stored(command, trained, cache, monkeypatch):
    monkeypatch.setattr(features, "_compute", None)  # would be called
    status, printed, error = command("probe", "--checkpoint", trained, "--cache", cache, "--folds", 2)
    assert status == 0, error
    about, header, *rows = [line for line in printed.splitlines() if line]
    assert "16 training videos and 9 to test on, 6 views each" in about
    assert header.split()[:3] == ["method", "chosen", "cross-validation"] and "95 % interval" in header
    assert [row.split("  ")[0] for row in rows] == ["knn", "linear", "attentive", "attentive, frames shuffled"]
    assert all(" to " in row for row in rows[:3])


@pytest.mark.parametrize("method", ["linear", "attentive"])
def test_a_saved_head_gives_the_probes_predictions(command, trained, cache, tmp_path, method):
    out = tmp_path / "new" / "probe.pyth"
    arguments = ("--checkpoint", trained, "--cache", cache, "--folds", 2, "--method", method, "--save", out)
    status, printed, error = command("probe", *arguments)
    assert status == 0 and f"{out}: the model with the {method} head" in printed, error

    load = {"path": trained}
    (result,) = probe.probe(config_of(**load), load, [method], cache, folds=2)
    fitted, saved = result.head(load_model(trained, new_head=True)), load_model(out)
    assert saved.cfg.MODEL.HEAD == method and saved.names == fitted.names
    clips = torch.randn(3, 3, 4, 32, 32)
    torch.testing.assert_close(saved.logits(clips), fitted.logits(clips))
    samples = list(annotations.load(saved.cfg, "val"))
    hits = [saved.predict(sample.path)["label"] == sample.label for sample in samples]
    assert 100 * sum(hits) / len(hits) == pytest.approx(result.score)

    run = tmp_path / "run"
    keys = ["TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", out, "MODEL.HEAD", method, "OUTPUT_DIR", run]
    config = tmp_path / "config.yaml"
    config.write_text(saved.cfg.dump())
    status, _, error = command("test", "--cfg", config, *keys)
    assert status == 0, error
    assert f'"top1_acc": {result.score:.6g}'[:16] in (run / "metrics.jsonl").read_text()
    video = samples[0].path
    assert command("explain", "--checkpoint", out, "--output", tmp_path / "maps", video)[0] == 0


@pytest.mark.parametrize("options", [V2, LIGHT], ids=["UniFormerV2", "light"])
def test_other_models_and_a_probed_checkpoint_are_probed_again(options, tiny, demo, tmp_path):
    from slowfast_uniformer.config.load import load_config, to_dict
    from slowfast_uniformer.models.registry import build_model

    cfg = load_config(None, [*tiny, *(word for pair in options.items() for word in pair)])
    torch.manual_seed(0)
    path = str(tmp_path / "checkpoints" / "epoch_00001.pyth")
    state = {"model_state": build_model(cfg).state_dict(), "optimizer_state": {}, "epoch": 1, "cfg": to_dict(cfg)}
    checkpoints.write_checkpoint(path, state)
    load, saved = {"path": path}, str(tmp_path / "probed.pyth")
    (first,) = probe.probe(config_of(**load), load, ["attentive"], str(tmp_path / "cache"), folds=2, save=saved)
    again = {"path": saved, "overrides": ["MODEL.HEAD", "linear"]}
    (second,) = probe.probe(config_of(**again), again, ["attentive"], str(tmp_path / "again"), folds=2)
    assert torch.equal(stored(tmp_path / "cache"), stored(tmp_path / "again"))
    assert (first.score, first.validated) == (second.score, second.validated)


def test_several_labels_a_video(trained, demo, tmp_path):
    for name in ("train.csv", "val.csv", "classes.txt"):
        lines = (demo / name).read_text().splitlines()
        if name != "classes.txt":
            lines = [f"{line},{(int(line[-1]) + 1) % 8}" for line in lines]
        (tmp_path / name).write_text("\n".join(lines))
    overrides = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.MULTI_LABEL", True, "OUTPUT_DIR", str(tmp_path / "run")]
    load = {"path": trained, "overrides": overrides}
    results = probe.probe(config_of(**load), load, ["linear", "attentive"], folds=2)
    assert all(result.interval is None and 0 < result.score <= 100 for result in results)
    assert sorted(os.listdir(tmp_path / "run" / "probe")) == ["train.safetensors", "val.safetensors"]
    with pytest.raises(UserError, match="knn is for videos of one label .* use --method linear or attentive"):
        probe.probe(config_of(**load), load, ["knn"], folds=2)


def test_interrupted_it_continues_with_the_videos_that_are_left(command, trained, cache, tmp_path, monkeypatch):
    folder, asked, rows = tmp_path / "cache", [], []
    row = features._rows
    arguments = ("--checkpoint", trained, "--cache", folder, "--method", "knn", "--folds", 2, "--workers", 0)
    with monkeypatch.context() as patch:
        patch.setattr(features, "PART_SECONDS", -1.0)  # a part for each video
        patch.setattr(signals, "stop_requested", lambda: asked.append(0) or len(asked) >= 3)
        status, _, error = command("probe", *arguments)
    assert status == 75 and "run the same command again to continue" in error
    done = len(os.listdir(folder / "train.safetensors.parts"))
    assert done == 3
    monkeypatch.setattr(features, "_rows", lambda job, clips: rows.append(0) or row(job, clips))
    status, _, error = command("probe", *arguments)
    assert status == 0 and len(rows) == 16 - done + 9, error
    for split in ("train", "val"):
        assert torch.equal(stored(folder, split), stored(cache, split))


def test_videos_that_cannot_be_read(command, trained, demo, tmp_path):
    (tmp_path / "classes.txt").write_text((demo / "classes.txt").read_text())
    for name in ("train.csv", "val.csv"):
        (tmp_path / name).write_text((demo / name).read_text() + "missing.mp4 3\n")
    arguments = ("--checkpoint", trained, "--set", "DATA.PATH_TO_DATA_DIR", tmp_path, "--cache", tmp_path / "cache")
    status, printed, error = command("probe", *arguments, "--folds", 2, "--workers", 0)
    assert status == 0, error
    assert "1 training video could not be read and had to be left out" in printed
    assert "1 video to test on could not be read and counts as wrong" in printed
    assert stored(tmp_path / "cache").isnan().sum() == stored(tmp_path / "cache")[0].numel()


def test_what_cannot_be_probed(command, trained, demo, tmp_path):
    (tmp_path / "test.csv").write_text((demo / "val.csv").read_text().splitlines()[0].split()[0] + " -1\n")
    (tmp_path / "train.csv").write_text((demo / "train.csv").read_text())
    arguments = ("--checkpoint", trained, "--set", "DATA.PATH_TO_DATA_DIR", tmp_path, "--cache", tmp_path / "cache")
    status, _, error = command("probe", *arguments, "--split", "test")
    assert status == 2 and "test.csv" in error and "1 video without a label" in error
    for words, cause in {
        ("--method", "knn", "--save", "a.pyth"): "knn has no weights",
        ("--save", "a.pyth"): "needs a single method",
        ("--folds", "1"): "--folds: 1 must be 2 or more",
    }.items():
        status, _, error = command("probe", "--checkpoint", trained, *words)
        assert status == 2 and cause in error
    status, _, error = command("probe", "--checkpoint", trained, "--method", "linear", "--save", tmp_path / "a.txt")
    assert status == 2 and "must end in .pyth" in error
    assert not (tmp_path / "cache").exists()
