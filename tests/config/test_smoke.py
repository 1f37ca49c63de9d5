"""Every released recipe trains two steps and is tested in two views or more: --small, on a few demo videos."""

import json

import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.config.recipes import list_recipes
from slowfast_uniformer.config.smoke import smoke_overrides
from slowfast_uniformer.data.annotations import FORMATS

OTHERS = ("custom/", "demo/", "k400/ptv_")
RECIPES = [name for name in list_recipes() if not name.startswith(OTHERS) and not name.endswith("_1gpu")]
QUICK = {  # each model family, list format and frame sampling
    "k400/uniformer_s",
    "k400/uniformer_xxs_4x128",
    "sthv1/uniformer_s_f16_k400",
    "k400/uniformerv2_l14_8x336_frozen",
    "anet/uniformerv2_l14_16x224",
}


def test_recipes_are_those_released():
    assert len(RECIPES) == 88 and QUICK < set(RECIPES)
    assert all(load_config(name, runs_here=False).RECIPE for name in RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_smoke_config_is_valid_and_tiny(name):
    cfg = load_config(name, runs_here=False)
    small = load_config(name, smoke_overrides(cfg))
    assert (small.NUM_GPUS, small.SOLVER.MAX_EPOCH, small.RECIPE) == (0, 1, "") and small.TRAIN.EVAL_PERIOD == 1
    unvalidated = smoke_overrides(load_config(name, ["TRAIN.EVAL_PERIOD", 0], runs_here=False))
    assert load_config(name, unvalidated).TRAIN.EVAL_PERIOD == 0
    assert small.OUTPUT_DIR == f"{cfg.OUTPUT_DIR}_small"
    unchanged = ("MODEL_NAME", "NUM_CLASSES", "USE_CHECKPOINT")
    assert [small.MODEL[key] for key in unchanged] == [cfg.MODEL[key] for key in unchanged]
    assert (small.AUG, small.MIXUP, small.TRAIN.DATASET) == (cfg.AUG, cfg.MIXUP, cfg.TRAIN.DATASET)


@pytest.fixture(scope="module")
def lists(demo, tmp_path_factory):
    """A folder with four videos as a list in the format of a config."""
    folder = tmp_path_factory.mktemp("lists")
    rows = [line.rsplit(" ", 1) for line in (demo / "train.csv").read_text().splitlines()[:4]]

    def write(cfg):
        for split in ("train", "val", "test"):
            form = FORMATS[cfg.TRAIN.DATASET if split == "train" else cfg.TEST.DATASET]
            texts = []
            for path, label in rows:
                row = {"path": str(demo / "videos" / path), "label": label, "frames": "16"}
                row |= {"total": "10.0", "start": "2.5", "end": "8.0"}
                texts.append(" ".join(row[field] for field in form.columns))
            (folder / form.list_names(cfg, split)[0]).write_text("\n".join(texts))
        return folder

    return write


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in RECIPES]
)
def test_two_steps_and_two_views(name, lists, command, monkeypatch, tmp_path):
    cfg = load_config(name, runs_here=False)
    monkeypatch.setenv(f"{name.split('/')[0].upper()}_DIR", str(lists(cfg)))
    options = ["TENSORBOARD.ENABLE", "False", "OUTPUT_DIR", str(tmp_path / "run")]
    status, _, log = command("train", "--small", "--cfg", name, *options)
    assert status == 0, log
    rows = list(map(json.loads, (tmp_path / "run_small/metrics.jsonl").read_text().splitlines()))
    assert [row["iter"] for row in rows if row["split"] == "train_iter"] == [1, 2]
    assert [row["num_videos"] for row in rows if row["split"] == "test_final"] == [4]
    assert "4 videos, 2 views each" in log or "4 videos, 3 views each" in log
