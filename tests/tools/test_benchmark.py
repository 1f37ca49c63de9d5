"""Baselines make the same clips; figures are complete and positive. No timing is judged."""

import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import Mock

import data_speed
import pytest
import torch
import torch.nn.functional as F
from baselines import pil_item, pil_views_item, reopened_item
from conftest import ROOT, load_script
from kernels import alone
from model_speed import Subject, by_operation, by_stage, exponent
from timing import interleaved
from torch import nn

from slowfast_uniformer.cli.common import finish
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.layers import repeated_blocks

AUGMENTED = [
    "AUG.ENABLE",
    True,
    "AUG.NUM_SAMPLE",
    2,
    "AUG.RE_PROB",
    0.9,
    "DATA.RANDOM_FLIP",
    True,
    "AUG.AA_TYPE",
    "rand-m7-n4-mstd0.5-inc1",
]
BOXES = ["DATA.TRAIN_JITTER_SCALES_RELATIVE", [0.08, 1.0], "DATA.TRAIN_JITTER_ASPECT_RELATIVE", [0.75, 1.33]]


@pytest.mark.parametrize(
    "overrides",
    [[], AUGMENTED, AUGMENTED + BOXES, ["TRAIN.DATASET", "kinetics_sparse"]],
    ids=["no augmentation", "augmented", "boxes", "sparse"],
)
def test_pil_images_give_the_same_clips(tiny, overrides):
    dataset = VideoDataset(load_config(None, [*tiny, *overrides]), "train")
    for index in range(4):
        gap = (pil_item(dataset, index) - dataset[0, index]["clips"]).abs()
        assert gap.mean() < 1e-3  # RandAugment rounds a few values in a thousand another way
        assert gap.max() < 1e-4 or dataset.transform.augment


def test_reopening_gives_the_same_views(tiny):
    dataset = VideoDataset(load_config(None, tiny), "test")
    assert torch.equal(reopened_item(dataset, 1), dataset[0, 1]["clips"]) and dataset.views == 6
    torch.testing.assert_close(pil_views_item(dataset, 1), dataset[0, 1]["clips"], rtol=0, atol=1e-4)


def test_chosen_videos_are_spread_over_the_list():
    assert data_speed.sample_of(range(9), 3) == [0, 4, 8]
    assert data_speed.sample_of(range(3), 100) == [0, 1, 2]


def positive(figures: dict) -> bool:
    return all(positive(value) if isinstance(value, dict) else value > 0 for value in figures.values())


def test_stages(tiny):
    figures = data_speed.stages(load_config(None, [*tiny, *AUGMENTED]), 3)
    assert figures["clips"] == 6 and positive(figures)
    without = data_speed.stages(load_config(None, tiny), 3)["cpu_ms_per_clip"]
    assert list(without) == list(figures["cpu_ms_per_clip"]) and without["augment"] == without["erase"] == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_goes_on_for_as_many_videos_as_asked(tiny, workers):
    cfg = load_config(None, [*tiny, "DATA_LOADER.NUM_WORKERS", workers])
    figures = data_speed.loading(cfg, 20)  # of a list of 16, in batches of 8
    assert figures["clips"] == {0: 24, 2: 32}[workers] and positive({**figures, "workers": 1})
    assert figures["clips_per_second_per_worker"] * max(1, workers) == figures["clips_per_second"]


def command(monkeypatch, *arguments, name: str = "data") -> None:
    config = ROOT / "tests/empty.yaml"
    line = ["benchmark.py", name, *arguments[:-1], "--cfg", config, *arguments[-1]]
    monkeypatch.setattr(sys, "argv", list(map(str, line)))
    finish(load_script("tools/benchmarks/benchmark.py").main)


def test_all_figures_as_json(tiny, monkeypatch, capsys):
    compare = ("--compare", "pil", "--compare", "reopen")
    command(monkeypatch, "--videos", 2, "--workers", 0, "--model", "--steps", 1, *compare, "--json", tiny)
    (figures,) = json.loads(capsys.readouterr().out)["rows"]
    assert list(figures) == ["stages", "loading", "waiting", "pil", "reopen"]
    assert positive(figures["pil"]) and positive(figures["reopen"]) and figures["reopen"]["views"] == 6
    assert 0 < figures["waiting"]["waiting_percent"] < 100 and figures["waiting"]["seconds_per_step"] > 0


def test_the_table(tiny, monkeypatch, capsys):
    command(monkeypatch, "--videos", 2, "--compare", "pil", tiny)
    out = capsys.readouterr().out
    for words in ("one process, 2 training clips", "crop and normalise", "DataLoader with 0 workers", "PIL images"):
        assert words in out
    assert "training step" not in out and "each view" not in out


def test_a_video_that_cannot_be_read_is_one_line(tiny, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, [*tiny, "DATA.PATH_PREFIX", "/nowhere"])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1) and "/nowhere" in err


def test_batches_without_clips_end_the_benchmark(tiny):
    cfg = load_config(None, [*tiny, "DATA.PATH_PREFIX", "/nowhere"])
    with pytest.raises(UserError, match="/nowhere"):
        data_speed.loading(cfg, 8)


@pytest.mark.slow
def test_a_model_against_the_reference_implementations(tiny, monkeypatch, capsys):
    options = ("--against", "reference", "--kernels", "--batch", 2, "--repeats", 1, "--clock", "cpu")
    arguments = (*options, "--json", tiny)
    command(monkeypatch, *arguments, name="model")
    (figures,) = json.loads(capsys.readouterr().out)["rows"]
    clock = figures.pop("clock")
    assert clock == "cpu" and positive(figures) and figures["batch"] == 2
    assert {"forward_ratio", "step_ratio", "memory_ratio", "peak_share"} <= figures.keys()
    assert figures["step_ratio"] == figures["reference"]["step_seconds"] / figures["ours"]["step_seconds"]
    step, share = figures["ours"]["step_gflops"] * figures["ours"]["step_seconds"], figures["kernels"]
    assert math.isclose(share["peak_share"] * share["step_seconds"] * figures["peak_gflops"], step)
    assert "blocks3" in figures["stages"] and sum(figures["operations"].values()) <= 1


def test_time_by_stage_and_operation(tiny):
    subject = Subject(load_config(None, tiny), 2)
    stages = [{"name": name, "gflops": gflops} for name, gflops in (("blocks3", 0.5), ("head", 0.0), ("(rest)", 0.1))]
    assert list(found := by_stage(subject, stages, time.perf_counter)) == ["blocks3"]
    assert math.isclose(found["blocks3"]["gflops_per_second"] * found["blocks3"]["seconds"], 2 * 2 * 0.5)
    operations = by_operation(subject)
    assert len(operations) == 12 and 0 < sum(operations.values()) <= 1


def test_kernels_of_a_pass_are_timed_and_nothing_else():
    model = nn.Sequential(nn.Conv3d(2, 3, 1), nn.GELU(), nn.Flatten(), nn.Linear(24, 5), nn.LayerNorm(5))
    clips, timed = torch.randn(1, 2, 2, 2, 2), []

    def second(function: Callable[[], torch.Tensor]) -> float:
        timed.append(function())
        return 1.0

    with torch.inference_mode():
        assert alone(lambda: model(clips), second, 2) == 2.0
    assert [tuple(output.shape) for output in timed] == 2 * [(1, 3, 2, 2, 2)] + 2 * [(1, 5)]
    assert alone(lambda: model(clips).sum().backward(), second, 1) == 2.0 + 3.0
    query = torch.randn(1, 2, 4, 8, requires_grad=True)
    attend = F.scaled_dot_product_attention
    assert alone(lambda: attend(query, query, query).sum().backward(), second, 1) == 1.0 + 1.0


def test_a_compiled_model_is_measured_compiled(tiny, monkeypatch):
    compiled = Mock()
    monkeypatch.setattr("slowfast_uniformer.distributed.parallel.compile_blocks", compiled)
    cfg = load_config(None, [*tiny, "MODEL.MODEL_NAME", "Uniformer", "MODEL.COMPILE", True])
    subject = Subject(cfg, 1)
    assert [call.args[0] for call in compiled.mock_calls] == [repeated_blocks(subject.model)]
    assert repeated_blocks(subject.fused) == compiled.mock_calls[-1].args[0] and subject.fused is not subject.model
    Subject(cfg, 1, reference=True)
    assert compiled.call_count == 2, "the reference implementations stay eager"


def test_text_of_the_model_command():
    row = {"forward_seconds": 1.0, "step_seconds": 3.0, "forward_gflops": 4.0, "step_gflops": 5.0, "memory_mb": 6.0}
    figures = {
        "batch": 1,
        "threads": 2,
        "clock": "wall",
        "peak_gflops": 10.0,
        "peak_share": 0.5,
        "ours": row,
        "operations": {"mm": 0.25},
        "stages": {"blocks1": {"seconds": 0.5, "gflops_per_second": 8.0}},
    }
    show = load_script("tools/benchmarks/benchmark.py").show_model
    assert "reference" not in show(figures) and "50% of the 10.0" in show(figures)
    bound = {"forward_seconds": 0.5, "step_seconds": 2.0, "peak_share": 0.75}
    assert "forward 0.500 s, step 2.000 s, which would be at 75%" in show(figures | {"kernels": bound})
    ratios = {"forward_ratio": 1.5, "step_ratio": 2.0, "memory_ratio": 1.25}
    assert show(figures | ratios | {"reference": row}).startswith(
        "reference over ours: forward 1.50, step 2.00, memory 1.25"
    )


def test_the_training_loop_alone_and_with_videos(tiny, monkeypatch, capsys):
    command(monkeypatch, "--data", "--steps", 1, "--repeats", 1, tiny, name="train")
    out = capsys.readouterr().out
    assert "the loop adds" in out and "waiting for data" in out


def test_exponents_are_slopes_in_logarithms():
    assert exponent([(x, 3 * x**2) for x in (1, 2, 4)]) == pytest.approx(2)
    assert exponent([(2, 5), (8, 5)]) == 0 and math.isnan(exponent([(1, 1)]))


def test_cost_against_frames_and_pixels(tiny, tmp_path, monkeypatch, capsys):
    few = ("--frames", 2, 4, "--sizes", 32, 64, "--repeats", 1)
    command(monkeypatch, *few, "--json", tiny, name="scaling")
    other = tmp_path / "other.json"
    other.write_text(capsys.readouterr().out)
    (figures,) = json.loads(other.read_text())["rows"]
    for name, points in (("frames", [2, 4]), ("pixels", [32, 64])):
        assert [row["x"] for row in figures[name]["rows"]] == points
        assert all(row["seconds"] > 0 and row["gflops"] > 0 for row in figures[name]["rows"])
    assert figures["frames"]["exponents"]["gflops"] >= 1 and figures["pixels"]["exponents"]["gflops"] >= 2
    plot = tmp_path / "plot.png"
    one = ("--frames", 2, "--sizes", 32, "--repeats", 1)
    command(monkeypatch, *one, "--plot", plot, "--beside", other, tiny, name="scaling")
    assert "exponent" in capsys.readouterr().out and plot.stat().st_size > 1000
    other.write_text("[]")
    with pytest.raises(SystemExit):
        command(monkeypatch, *one, "--beside", other, tiny, name="scaling")
    assert "--beside" in capsys.readouterr().err


def test_background_checkpoint_writing(tiny, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "--times", 1, "--json", tiny, name="checkpoint")
    (figures,) = json.loads(capsys.readouterr().out)["rows"]
    assert figures.pop("seconds_waited") >= 0 and figures.pop("waited_percent") >= 0 and positive(figures)
    assert not list((tmp_path / "run").iterdir()), "the files are removed"


def test_functions_are_interleaved_and_the_minimum_counts():
    calls, ticks = [], iter([0, 5, 5, 6, 6, 7, 7, 9, 9, 12, 12, 13])  # of two rounds and a warm-up of "a" and "b"
    functions = {name: partial(calls.append, name) for name in "ab"}
    assert interleaved(functions, 2, clock=lambda: next(ticks), warmups=1) == {"a": 1, "b": 1}
    assert calls == ["a", "b"] * 3
