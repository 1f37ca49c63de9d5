"""tools/benchmarks/gpu.py: its dry run takes the way that a GPU would, and what goes wrong there is told."""

import json
import os
import sys
import time
from contextlib import contextmanager

import pytest
import torch
from benchmark_cases import ends, hangs, lacks, prints, raises, works
from conftest import exit_status, load_script
from gpu_parts import cases, correctness, feeding, page, speed
from gpu_parts.cases import Case, attempt, run_cases
from timing import median_seconds
from torch.distributed import get_world_size

from slowfast_uniformer.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.slow
def test_a_case_that_fails_hangs_or_ends_its_process_is_a_row_and_the_others_go_on(tmp_path):
    log = tmp_path / "log.txt"
    listed = [Case(work.__name__, work, limit=1.0) for work in (prints, raises, lacks, prints, ends, hangs, prints)]
    rows = list(run_cases(listed, time.monotonic() + 300, str(log)))
    assert [row["name"] for row in rows] == [case.name for case in listed]
    assert [row["status"] for row in rows] == ["ok", "error", "skipped", "ok", "error", "error", "ok"]
    assert rows[0]["process"] == rows[3]["process"] != rows[6]["process"]
    assert "status 3" in rows[4]["reason"] and "more than 1 s" in rows[5]["reason"]
    assert log.read_text().count("from a case") == 3 and "second line" in log.read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(rows[6]["process"], 0)


@pytest.mark.slow
def test_what_exceeds_the_time_of_a_part_is_cut_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "LEAST", 0.0)
    end = time.monotonic() + 5
    rows = list(run_cases([Case("long", hangs, limit=600), Case("next", works)], end, str(tmp_path / "log.txt")))
    assert [row["status"] for row in rows] == ["cut", "cut"]
    assert "it was ended" in rows[0]["reason"] and "before it" in rows[1]["reason"]


def test_no_process_begins_when_the_time_is_up(tmp_path):
    (row,) = run_cases([Case("late", works)], time.monotonic() - 1, str(tmp_path / "log.txt"))
    assert row["status"] == "cut" and not (tmp_path / "log.txt").exists()


def test_rows_of_cases():
    assert attempt(works, {}) == {"status": "ok", "answer": 42}
    assert attempt(raises, {}) == {"status": "error", "reason": "UserError: first line"}
    assert attempt(lacks, {}) == {"status": "skipped", "reason": "no such device"}
    assert attempt(lambda: {"status": "failed"}, {})["status"] == "failed"


# ----------------------------------------------------------------------------------------------- correctness
def test_golden_figures_in_both_precisions_and_implementations():
    for precision, implementation in (("fp32", "conv3d"), ("bf16", "unrolled")):
        row = correctness.golden_case("v2_lmhra_double", precision, implementation, gpus=0)
        assert "status" not in row, row
        assert 0 < row["gradient_error"] and (row["eval_error"] > 1e-4) == (precision == "bf16")


def test_wrong_figures_fail(monkeypatch):
    golden = correctness._golden_recipe()
    right = golden.fill

    def one_weight_off(model):
        right(model).get_parameter("backbone.class_embedding").data[0] += 0.1
        return model

    monkeypatch.setattr(golden, "fill", one_weight_off)
    row = correctness.golden_case("v2_global", "fp32", "conv3d", gpus=0)
    assert row["status"] == "failed" and "eval_error" in row["reason"] and "gradient_error" in row["reason"]


def test_errors_that_are_not_numbers_fail():
    assert correctness.judged({"error": (float("nan"), 1.0)})["status"] == "failed"
    assert correctness.judged({"error": (0.5, 1.0)}) == {"error": 0.5}


def test_gpus_without_bf16_and_without_triton_say_so(monkeypatch):
    monkeypatch.setattr(correctness, "has_bf16", lambda gpus: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old GPU")
    row = attempt(correctness.golden_case, dict(case="v1_joint", precision="bf16", implementation="conv3d", gpus=1))
    assert row == {"status": "skipped", "reason": "an old GPU has no bf16"}
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    row = attempt(correctness.same_steps, {"way": "compile", "gpus": 1})
    assert row["status"] == "skipped" and "Triton" in row["reason"]
    monkeypatch.setattr(speed, "has_bf16", lambda gpus: False)
    assert speed.precision(1) == "fp16"


def test_steps_that_differ_fail(monkeypatch):
    monkeypatch.setattr(correctness, "WRAPPED", {"other rate": ["SOLVER.BASE_LR", 0.02]})
    row = correctness.same_steps("other rate", gpus=0)
    assert row["status"] == "failed" and "change_error" in row["reason"]


def test_a_group_of_one_process(monkeypatch):
    """The environment is what a launcher sets, and is as before afterwards."""
    before, seen = dict(os.environ), []
    monkeypatch.setattr("torch.multiprocessing._prctl_pr_set_pdeathsig", seen.append)
    monkeypatch.setattr(correctness, "take_steps", lambda cfg, way: (None, [float(get_world_size())], way))
    figures, losses, way = correctness._in_group(correctness.demo_cfg(0), "DDP")
    assert (losses, way) == ([1.0], "DDP") and "gloo" in figures["backend"]
    assert dict(os.environ) == before and seen


def test_waiting_is_refused_only_inside(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.raises(RuntimeError), correctness.refused_waiting():
        raise RuntimeError
    assert modes == ["error", "default"]


# ----------------------------------------------------------------------------------------------------- speed
def test_clips_that_do_not_fit_are_halved(monkeypatch):
    tried = []

    def measure(cfg, batch, gmacs):
        tried.append(batch)
        if batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"batch": batch}

    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr(speed, "giga_multiply_adds", lambda model, gpus: 1.0)
    arguments = dict(model="UniFormer-S, 16x224", layout="contiguous", dw_conv="conv3d", compiled=False, gpus=0)
    assert speed.model_case(**arguments, batch=8)["batch"] == 2 and tried == [8, 4, 2]
    monkeypatch.setattr(speed, "measure", lambda *_: raises())
    with pytest.raises(UserError):
        speed.model_case(**arguments, batch=8)


def test_memory_that_is_short_for_a_library():
    assert speed.is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert speed.is_out_of_memory(torch.OutOfMemoryError("any"))
    assert not speed.is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"))


def test_a_model_is_measured(monkeypatch):
    monkeypatch.setattr(speed, "giga_multiply_adds", lambda model, gpus: 1.0)  # seconds
    row = speed.model_case("UniFormer-XXS, 16x128", "channels_last", "unrolled", compiled=False, gpus=0, batch=2)
    assert row["batch"] == 2 and row["model"].startswith("tiny")
    for kind in page.KINDS:
        assert row[f"{kind}_clips_per_second"] > 0 and row[f"{kind}_tflops"] > 0


def test_blocks_share_a_rate_of_stochastic_depth():
    cfg = speed.model_cfg("UniFormer-S, 16x224", 0, "UNIFORMER.DEPTH", [1, 2, 1, 1])
    model = speed.Measured(cfg, 1).model
    rates = {module.p for module in model.modules() if isinstance(module, speed.DropPath)}
    assert rates == {speed.ONE_RATE} and cfg.UNIFORMER.DROP_DEPTH_RATE > 0


def test_cases_on_a_gpu_are_of_whole_models_and_the_plain_ones_come_first():
    listed = speed.cases(1, "")
    assert listed[0].name == speed.MATRIX_PRODUCT
    first = [case.arguments for case in listed[1 : 1 + len(speed.MODELS)]]
    assert {row["model"] for row in first} == speed.MODELS.keys() and not any(row["compiled"] for row in first)
    compiled = [case.arguments["compiled"] for case in listed[1:]]
    assert compiled == sorted(compiled) and any(compiled)
    for model, (_, batch) in speed.MODELS.items():
        cfg = speed.model_cfg(model, 0)
        assert cfg.MODEL.INIT_FROM == "" and batch >= 32


def test_the_median_and_the_first_call():
    calls = []
    median, first = median_seconds(lambda: calls.append(time.perf_counter()), CPU, seconds=10.0, most=5)
    assert len(calls) == 7 and median >= 0 and first >= 0
    median_seconds(lambda: calls.append(0), CPU, seconds=0.0)
    assert len(calls) == 9


# --------------------------------------------------------------------------------------------------- feeding
def render_nothing(path, gop, frames):
    path.touch()
    return str(path)


def test_rendered_videos_are_copies_and_the_list_names_as_many_as_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(feeding, "render", render_nothing)
    folder = feeding.rendered(tmp_path / "clips", 5, 8)
    assert len((folder / "train.csv").read_text().splitlines()) == 5
    assert len({os.stat(folder / f"{number}.mp4").st_ino for number in range(5)}) == 2
    feeding.rendered(folder, 7, 8)
    assert len((folder / "train.csv").read_text().splitlines()) == 7


def test_waiting_is_that_of_the_windows_between_the_first_and_the_last(tmp_path, monkeypatch):
    windows = [(1.0, 90.0), (10.0, 40.0), (20.0, 10.0), (99.0, 0.0)]
    rows = [{"split": "train_iter", "clips_per_second": rate, "data_wait_percent": wait} for rate, wait in windows] + [
        {"split": "train_epoch"}
    ]
    monkeypatch.setattr(feeding, "render", render_nothing)
    monkeypatch.setattr(feeding, "train_run", lambda cfg: None)
    monkeypatch.setattr(feeding, "read_json_lines", lambda path: rows)
    row = feeding.training(0, str(tmp_path), feeding.PLACES[1], workers=1)
    assert row["data_wait_percent"] == pytest.approx((2 * 40 + 10) / 3)  # the slower window lasts twice as long
    assert row["clips_per_second"] == pytest.approx(2 / (1 / 10 + 1 / 20)) and row["workers"] == 1


# ------------------------------------------------------------------------------------------- script and page
@contextmanager
def arguments(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, words)])
    yield load_script("tools/benchmarks/gpu.py")


def test_parts_share_the_minutes(monkeypatch):
    with arguments(monkeypatch) as script:
        ends = script.deadlines(list(script.SHARES), 100.0, 480.0)
        assert list(ends) == ["correctness", "speed", "feeding"] and ends["feeding"] == pytest.approx(580.0)
        assert script.deadlines(["speed"], 0.0, 60.0) == {"speed": pytest.approx(60.0)}
        assert script.parse_args().minutes == 8.0


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("skipped", 0), ("cut", 0), ("failed", 1), ("error", 1)])
def test_exit_status_is_that_of_correctness(tmp_path, monkeypatch, status, code):
    with arguments(monkeypatch, "--dry-run", "--output", tmp_path / "out") as script:
        row = {"name": "v1", "status": status, "seconds": 0.1, "reason": "why"}
        monkeypatch.setattr(script, "machine", lambda gpus, log: {"gpu": None})
        monkeypatch.setattr(cases, "run_cases", lambda *_: [dict(row)])
        assert exit_status(script.main) == code
        results = json.loads((tmp_path / "out/gpu.json").read_text())
        assert results["dry_run"] and not results["is_measurement"]
        assert ("why" in (tmp_path / "out/gpu.md").read_text()) == (status != "ok")


def results(dry_run: bool) -> dict:
    rows = [{"name": speed.MATRIX_PRODUCT, "status": "ok", "tflops": 100.0}]
    for layout, dw_conv, compiled, rate in (
        ("contiguous", "conv3d", False, 50.0),
        ("channels_last", "conv3d", False, 80.0),
        ("channels_last", "conv3d", True, 90.0),
    ):
        row = {"model": "M", "layout": layout, "dw_conv": dw_conv, "compiled": compiled, "batch": 8}
        for kind in page.KINDS:
            row |= {f"{kind}_clips_per_second": rate, f"{kind}_tflops": rate / 2, f"{kind}_peak_gb": 1.5}
            row[f"{kind}_first_seconds"] = 1.0
        rows.append({"name": f"M, {layout}", "status": "ok", **row})
    rows.append({"name": "M, more", "status": "cut", "reason": "the part's time was up before it"})
    machine = {"gpu": "G", "precision": "bf16", "auto_layout": "contiguous", "auto_dw_conv": "conv3d"}
    parts = {"correctness": [], "speed": rows, "feeding": []}
    return {"dry_run": dry_run, "command": "python tools/benchmarks/gpu.py", "machine": machine, "parts": parts}


def test_the_page_has_shares_the_fastest_and_what_is_missing():
    found = results(dry_run=False)
    page.add_shares(found["parts"]["speed"])
    assert found["parts"]["speed"][1]["step_share"] == 0.25
    best = page.fastest(found["parts"]["speed"], "step")
    assert best["M"]["layout"] == "channels_last" and not best["M"]["compiled"]
    text = page.to_markdown(found)
    assert "25%" in text and "M, more: cut: the part's time was up" in text and "100 TFLOP/s" in text
    assert page.DRY_RUN not in text and page.DRY_RUN in page.to_markdown(results(dry_run=True))


def test_without_a_measured_matrix_product_there_are_no_shares():
    found = results(dry_run=False)
    del found["parts"]["speed"][0]
    page.add_shares(found["parts"]["speed"])
    assert "step_share" not in found["parts"]["speed"][0]
    assert "not been measured" in page.to_markdown(found)


def test_golden_figures_of_a_gpu_are_of_all_models_and_what_takes_longest_comes_last():
    listed = [case.name for case in correctness.cases(1, "")]
    assert len(listed) > 60 and listed[-1] == "compile" and len(set(listed)) == len(listed)
    assert "full_uniformerv2_b16_k_f8, bf16, conv3d" in listed and "v1_light_ls_fp32, fp32, unrolled" in listed


@pytest.mark.slow
def test_the_dry_run_takes_every_way_of_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")  # as in test_step.py
    with arguments(monkeypatch, "--dry-run", "--minutes", 30, "--output", tmp_path) as script:
        assert exit_status(script.main) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = [row for part in found["parts"].values() for row in part]
    assert list(found["parts"]) == ["correctness", "speed", "feeding"]
    assert [row["name"] for row in rows if row["status"] != "ok"] == []
    named = {row["name"] for row in found["parts"]["correctness"]}
    assert {"compile", "EMA", "DDP", "FSDP", "demo training", "a step does not wait"} <= named
    waited = [row["data_wait_percent"] for row in rows if "data_wait_percent" in row]
    assert waited and all(0 <= share <= 100 for share in waited)
    assert page.DRY_RUN in (tmp_path / "gpu.md").read_text()
