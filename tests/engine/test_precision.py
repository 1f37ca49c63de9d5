"""What a config says of TF32 and cuDNN reaches PyTorch and leaves it; what a run in fp32 says of its cost."""

import logging

import pytest
import torch

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.loader import build_loader
from slowfast_uniformer.engine import job, precision
from slowfast_uniformer.engine.precision import cuda_settings, fp32_note
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.train import log_run_summary
from slowfast_uniformer.errors import UserError

GPU = torch.device("cuda", 0)


def settings() -> tuple[bool, bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark


def within(*options) -> tuple[bool, bool, bool]:
    with cuda_settings(load_config(None, ["NUM_GPUS", 0, *options])):
        return settings()


def test_settings_hold_for_a_job_and_auto_changes_nothing_in_fp32():
    before = settings()
    assert within() == before
    assert within("TRAIN.TF32", True) == (True, True, before[2])
    assert within("TRAIN.TF32", "False") == (False, False, before[2])
    assert within("TRAIN.CUDNN_BENCHMARK", "True") == (*before[:2], True)
    assert within("TRAIN.MIXED_PRECISION", "bf16") == (*before[:2], True)
    assert within("TRAIN.MIXED_PRECISION", "bf16", "TRAIN.CUDNN_BENCHMARK", False) == (*before[:2], False)
    assert settings() == before
    with pytest.raises(UserError, match="TRAIN.TF32: 'yes' is not one of 'auto', True, False"):
        load_config(None, ["NUM_GPUS", 0, "TRAIN.TF32", "'yes'"])


def test_training_and_test_run_with_them(tiny, monkeypatch):
    seen, before = [], settings()
    monkeypatch.setattr(job, "train", lambda *_: seen.append(settings()))
    monkeypatch.setattr(job, "test", lambda *_: seen.append(settings()) or {})
    job.run_job(load_config(None, [*tiny, "TRAIN.TF32", True, "TRAIN.CUDNN_BENCHMARK", True]))
    assert seen == [(True, True, True)] * 2 and settings() == before


def test_full_precision_says_what_it_costs(tiny, monkeypatch, caplog):
    cfg = load_config(None, tiny)
    assert fp32_note(cfg, torch.device("cpu")) == ""
    monkeypatch.setattr(precision, "bf16_gpu", lambda device: "NVIDIA H200" if device == GPU else "")
    notes = {}
    for tf32 in ("auto", "True", "False"):
        cfg = load_config(None, [*tiny, "TRAIN.TF32", tf32])
        with cuda_settings(cfg):
            notes[tf32] = fp32_note(cfg, GPU)
    begin, end = (
        "TRAIN.MIXED_PRECISION none on NVIDIA H200, which has bf16: ",
        "TRAIN.MIXED_PRECISION bf16 changes that",
    )
    assert all(note.startswith(begin) and note.endswith(end) and "\n" not in note for note in notes.values())
    off, on = "do without its tensor cores, as TF32 is off (TRAIN.TF32 True)", "use TF32, at half the peak rate of bf16"
    assert f"matrix products {off}; convolutions {on}" in notes["auto"]
    assert f"matrix products and convolutions {on}" in notes["True"] and off not in notes["True"]
    assert f"matrix products and convolutions {off}" in notes["False"] and on not in notes["False"]
    bf16 = load_config(None, [*tiny, "TRAIN.MIXED_PRECISION", "bf16"])
    assert fp32_note(bf16, GPU) == ""

    caplog.set_level(logging.INFO)
    run, loader = start_run(cfg, None), build_loader(cfg, "train")
    run.device = GPU
    log_run_summary(run, loader)
    assert caplog.messages[-1].startswith(begin)
    run.epochs_finished = cfg.SOLVER.MAX_EPOCH
    log_run_summary(run, loader)
    assert caplog.messages[-1].startswith("training is complete")


def test_gpus_with_tensor_cores_for_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    for capability, name in {(7, 5): "", (8, 0): "a GPU", (9, 0): "a GPU"}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert precision.bf16_gpu(GPU) == name
    assert precision.bf16_gpu(torch.device("cpu")) == ""
