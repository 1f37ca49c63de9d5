"""Notes on departures from a recipe: learning rate and global batch, crops, views, frame sampling."""

import pytest

from slowfast_uniformer.config.load import load_config, load_recipe
from slowfast_uniformer.config.recipe_notes import recipe_notes
from slowfast_uniformer.distributed.topology import Topology, planned

RECIPE = load_recipe("k400/uniformer_s")  # 32 videos on 1 machine with 8 GPUs, at 1e-4


def notes(*overrides, topology=None, recipe=RECIPE) -> list[str]:
    cfg = load_config("k400/uniformer_s", overrides, loading := [], runs_here=False)
    assert loading == []
    return recipe_notes(cfg, recipe, topology or planned(cfg), planned(recipe))


@pytest.mark.parametrize(
    "overrides, parts",
    [
        (("TRAIN.BATCH_SIZE", 8), ["batch of 32", "has 8 at 0.0001", "2.5e-05"]),
        (("NUM_SHARDS", 2, "SOLVER.BASE_LR_SCALE_NUM_SHARDS", False), ["64 at 0.0001", "0.0002"]),
        (("TRAIN.BATCH_SIZE", 64, "NUM_SHARDS", 2), ["128 at 0.0002", "BASE_LR would be 0.0002"]),
        (("SOLVER.BASE_LR", 0.0), ["32 at 0", "BASE_LR would be 0.0001"]),
        (("DATA.TEST_CROP_SIZE", 256), ["DATA.TEST_CROP_SIZE: 256", "has 224"]),
        (("TEST.NUM_SPATIAL_CROPS", 3), ["4 x 3 views", "of 4 x 1"]),
        (("TEST.DATASET", "kinetics_sparse"), ["TEST.DATASET: kinetics_sparse", "another way"]),
    ],
)
def test_departures_are_noted(overrides, parts):
    (note,) = notes(*overrides)
    assert [part for part in parts if part not in note] == []


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("NUM_SHARDS", 2),
        ("TRAIN.BATCH_SIZE", 8, "SOLVER.BASE_LR", 2.5e-5),
        ("NUM_GPUS", 1, "TRAIN.ACCUM_STEPS", 8),
        ("DATA.TRAIN_CROP_SIZE", 128, "DATA.TEST_CROP_SIZE", 128),
        ("RECIPE", "", "TEST.NUM_SPATIAL_CROPS", 3),
    ],
)
def test_equivalent_settings_are_not_noted(overrides):
    assert notes(*overrides) == []


def test_the_real_topology_counts_under_torchrun():
    """NUM_SHARDS stays 1 when torchrun or srun start the ranks on two machines."""
    unscaled = ("SOLVER.BASE_LR_SCALE_NUM_SHARDS", False)
    (note,) = notes(*unscaled, topology=Topology(2, 8))
    assert "batch of 32" in note and "has 64 at 0.0001" in note and "BASE_LR would be 0.0002" in note
    assert notes(*unscaled) == []
    assert notes(topology=Topology(2, 8)) == []  # the recipe scales its rate with the machines


def test_configured_machines_do_not_count():
    assert notes("NUM_GPUS", 1, topology=Topology(1, 8)) == []
    (note,) = notes("NUM_GPUS", 1, "NUM_SHARDS", 4, "SOLVER.BASE_LR", 4e-4, topology=Topology(1, 1))
    assert "has 32 at 0.0004" in note


def test_a_recipe_that_needs_overrides_is_compared_all_the_same(tmp_path):
    path = tmp_path / "probe.yaml"
    path.write_text("RECIPE: mine\nMODEL: {INIT_HEAD: probe}\n")
    cfg = load_config(str(path), ["MODEL.INIT_FROM", "weights", "TRAIN.BATCH_SIZE", 32], runs_here=False)
    recipe = load_recipe(str(path))
    (note,) = recipe_notes(cfg, recipe, planned(cfg), planned(recipe))
    assert "mine has a global batch of 64" in note
