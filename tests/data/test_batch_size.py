"""Notes on a batch that gives ranks few clips or an epoch few steps, whose remedies are followed."""

import re

import pytest
from conftest import config_with

from slowfast_uniformer.data.batch_size import batch_notes, steps_per_epoch
from slowfast_uniformer.distributed.topology import Topology
from slowfast_uniformer.errors import UserError


def notes(batch: int, ranks: Topology, videos: int, **keys) -> list[str]:
    return list(batch_notes(config_with(TRAIN__BATCH_SIZE=batch, **keys), ranks, videos))


def test_enough_clips_and_steps_are_not_noted():
    assert notes(32, Topology(1, 8), 320) == notes(32, Topology(2, 8), 640) == []
    assert notes(4, Topology(1, 1), 40) == []


def test_one_clip_for_each_of_16_gpus():
    few, steps = notes(8, Topology(2, 8), 75)
    assert few.startswith(
        "1 clip at a time on each of 16 ranks: batch norms are poor with fewer than 4. Use 2 GPUs per machine"
    )
    assert few.endswith("per machine"), "a larger batch would leave even fewer steps"
    assert steps.startswith("75 videos in batches of 16 are only 4 steps an epoch, 1,200 in all. Use fewer machines")
    assert "TRAIN.BATCH_SIZE" in steps and "SOLVER.MAX_EPOCH" in steps
    assert notes(8, Topology(1, 2), 80) == []  # as the notes advise


@pytest.mark.parametrize(
    ("batch", "ranks", "keys"),
    [
        (8, Topology(2, 8), {}),
        (16, Topology(1, 8), {}),
        (6, Topology(1, 3), {}),
        (2, Topology(1, 1), {}),
        (8, Topology(1, 1), {"TRAIN__ACCUM_STEPS": 4}),
        (8, Topology(1, 4), {"TRAIN__ACCUM_STEPS": 2}),
        (4, Topology(1, 4), {"AUG__NUM_SAMPLE": 2, "AUG__ENABLE": True}),
    ],
)
def test_every_remedy_for_few_clips_gives_enough(batch, ranks, keys):
    (note,) = notes(batch, ranks, 10_000, **keys)
    remedies = re.findall(r"(TRAIN\.BATCH_SIZE|TRAIN\.ACCUM_STEPS) (\d+)", note)
    remedies += [("GPUs", number) for number in re.findall(r"use (\d+) GPUs? per machine", note, re.IGNORECASE)]
    assert remedies
    for key, value in remedies:
        gpus = int(value) if key == "GPUs" else ranks.ranks_per_machine
        size = int(value) if key == "TRAIN.BATCH_SIZE" else batch
        parts = {"TRAIN__ACCUM_STEPS": int(value)} if key == "TRAIN.ACCUM_STEPS" else {}
        assert size % gpus == 0 and notes(size, Topology(ranks.machines, gpus), 10_000, **keys | parts) == []


def test_models_without_batch_norms_take_single_clips():
    assert notes(1, Topology(1, 1), 100, MODEL__MODEL_NAME="MViT_B") == []
    without = {"MODEL__MODEL_NAME": "Uniformerv2", "UNIFORMERV2__NO_LMHRA": True}
    assert notes(1, Topology(1, 1), 100, **without) == []
    assert notes(1, Topology(1, 1), 100, **without | {"UNIFORMERV2__NO_LMHRA": False}) != []


def test_a_list_that_is_shorter_than_a_batch():
    cfg = config_with(TRAIN__BATCH_SIZE=64)
    assert steps_per_epoch(cfg, Topology(1, 2), 70) == steps_per_epoch(cfg, Topology(1, 2), 64) == 1
    with pytest.raises(UserError, match="75 videos, fewer than one batch of 128; .*fewer machines"):
        steps_per_epoch(cfg, Topology(2, 2), 75)
    with pytest.raises(UserError, match="TRAIN.BATCH_SIZE: the train list has 63 videos, fewer than one batch of 64; "):
        steps_per_epoch(cfg, Topology(1, 2), 63)
