"""Rows of starts.jsonl."""

import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.distributed import collectives
from slowfast_uniformer.runs.starts import commit, describe_start


@pytest.mark.parametrize("scaled", [False, True])
def test_a_start_has_the_batch_and_learning_rate_that_really_apply(monkeypatch, scaled):
    """Two machines of two ranks, as torchrun starts them with NUM_SHARDS and NUM_GPUS at their defaults."""
    monkeypatch.setattr(collectives, "all_gather_objects", lambda value: ["a", "a", "b", "b"])
    for name, value in {"RANK": 1, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    options = {"NUM_GPUS": 0, "TRAIN.BATCH_SIZE": 8, "AUG.ENABLE": True, "AUG.NUM_SAMPLE": 2, "SOLVER.BASE_LR": 0.25}
    options["SOLVER.BASE_LR_SCALE_NUM_SHARDS"] = scaled
    start = describe_start(load_config(None, [item for pair in options.items() for item in pair]))
    assert (start["machines"], start["ranks"], start["hosts"]) == (2, 4, ["a", "b"])
    assert (start["videos_per_step"], start["clips_per_step"]) == (16, 32)
    assert start["learning_rate"] == (0.5 if scaled else 0.25)
    assert start["slurm"]["SLURM_JOB_ID"] == "17" and start["versions"]["torch"] and start["device"]


def test_commit_of_a_checkout_and_outside_of_one(monkeypatch):
    assert len(commit().rstrip("+")) == 40
    monkeypatch.setenv("PATH", "")
    assert commit() is None
