"""The linear probe that a run may start from."""

import logging
import re

import pytest
import torch

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.loader import build_loader
from slowfast_uniformer.distributed import signals
from slowfast_uniformer.engine.probe import fit_classifiers
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.train import train
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.runs.log import Phase


@pytest.fixture
def probing(tiny, trained) -> list:
    weights = next((trained / "checkpoints").glob("*.pyth"))
    return [*tiny, "MODEL.INIT_FROM", str(weights), "MODEL.INIT_HEAD", "probe", "SOLVER.MAX_EPOCH", 1]


def test_a_run_starts_from_the_probe(probing, caplog, monkeypatch):
    phases, enter = [], Phase.__enter__
    monkeypatch.setattr(Phase, "__enter__", lambda phase: (phases.append(phase), enter(phase))[1])
    cfg = load_config(None, probing)
    caplog.set_level(logging.INFO)
    loader = build_loader(cfg, "train")
    run = start_run(cfg, None, lambda net: fit_classifiers(net, loader, cfg))
    reading, solving = [phase for phase in phases if phase.title.startswith("fit")]
    assert (reading.title, reading.total, reading.done, reading.unit) == ("fit the classifier", 32, 32, "clip")
    assert solving.title == "fit the classifier head to 32 clips, all read"
    (right,) = re.findall(r"probe: head fitted to 32 clips, accuracy ([\d.]+) %", caplog.text)

    net = run.net.eval()
    hits = []
    for epoch in (0, 1):
        loader.sampler.epoch, loader.sampler.start = epoch, 0
        with torch.inference_mode():
            hits += [(net(batch["clips"]).argmax(1) == batch["labels"]).float().mean() for batch in loader]
    assert float(right) == pytest.approx(100 * float(sum(hits)) / 4, abs=0.06) and float(right) > 50


def test_several_labels_a_video_and_two_classifiers(tiny, demo, tmp_path):
    """A light model's second classifier has no part in evaluation, and stays new."""
    for name in ("train.csv", "classes.txt"):
        lines = (demo / name).read_text().splitlines()
        if name == "train.csv":
            lines = [f"{line},{(int(line[-1]) + 1) % 8}" for line in lines]
        (tmp_path / name).write_text("\n".join(lines))
    light = [
        "MODEL.MODEL_NAME",
        "Uniformer_light",
        "UNIFORMER.PRUNE_RATIO",
        "[[],[],[1],[0.5]]",
        "UNIFORMER.TRADE_OFF",
        "[[],[],[1],[0.5]]",
        "UNIFORMER.EMBED_DIM",
        "[8,8,16,64]",
    ]
    cfg = load_config(None, [*tiny, *light, "DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.MULTI_LABEL", True])
    torch.manual_seed(0)
    net, loader = build_model(cfg), build_loader(cfg, "train")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fit_classifiers(net, loader, cfg)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}
    loader.sampler.start = 0
    batch = next(iter(loader))
    with torch.inference_mode():
        chosen = net(batch["clips"]).argmax(1)
    assert batch["labels"].sum(1).tolist() == [2] * 8
    assert batch["labels"].gather(1, chosen[:, None]).sum() >= 6, "by chance 2 of 8"


def test_the_moving_average_and_what_is_continued_know_it(probing, tmp_path, caplog):
    options = [*probing, "MODEL.EMA_EPOCH", 0, "MODEL.EMA_DECAY", 0.5]
    caplog.set_level(logging.INFO)
    train(load_config(None, options))
    path = tmp_path / "run" / "checkpoints" / "epoch_00001.pyth"
    first = checkpoints.load_checkpoint(str(path))["model_state"]
    assert caplog.text.count("fitted to") == 1
    train(load_config(None, [*options, "SOLVER.MAX_EPOCH", 2]))  # continues
    assert caplog.text.count("fitted to") == 1
    again = load_config(
        None, [*options, "TRAIN.AUTO_RESUME", False, "SOLVER.BASE_LR", 0.0, "SOLVER.WARMUP_START_LR", 0.0]
    )
    train(again)
    probe = checkpoints.load_checkpoint(str(path))
    torch.testing.assert_close(probe["ema_state"]["head.weight"], probe["model_state"]["head.weight"])
    assert not torch.equal(probe["model_state"]["head.weight"], first["head.weight"])
    loader = build_loader(again, "train")
    fitted = start_run(again, None, lambda net: fit_classifiers(net, loader, again)).net.head.weight
    torch.testing.assert_close(probe["model_state"]["head.weight"], fitted.detach())


def test_a_signal_ends_the_probe_without_a_checkpoint(probing, tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "stop_requested", lambda: True)
    with pytest.raises(signals.Interrupted):
        train(load_config(None, probing))
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_what_cannot_be_probed(probing, demo, tmp_path):
    with pytest.raises(UserError, match="INIT_HEAD: probe .* set MODEL.INIT_FROM"):
        load_config(None, [*probing, "MODEL.INIT_FROM", ""])
    with pytest.raises(UserError, match="PROBE_EPOCHS: 0 must be 1 or more"):
        load_config(None, [*probing, "MODEL.PROBE_EPOCHS", 0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no training video can be read"):
        train(load_config(None, [*probing, "DATA.PATH_PREFIX", str(tmp_path / "empty")]))
