"""Every shipped YAML loads and builds its model, and those of released recipes say what those really ran.

golden/recipes.json holds the values that took effect in the releases: their defaults, YAML and shell script
together, for each family and then what a recipe has of its own.
"""

import itertools
import json
import os
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import yaml

from slowfast_uniformer.apps.model_info import describe
from slowfast_uniformer.config import flatten, get_cfg, load_config
from slowfast_uniformer.models import build_model

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("[!_]*/*.yaml"))
FACTS = json.loads((ROOT / "tests/golden/recipes.json").read_text())
LRS = ("SOLVER.BASE_LR", "SOLVER.COSINE_END_LR", "SOLVER.WARMUP_START_LR")
# Where the YAMLs mean to differ, by the name of the recipe (docs/recipes.md gives the reasons).
VIEWS = ("TEST.NUM_ENSEMBLE_VIEWS", "TEST.NUM_SPATIAL_CROPS")
CORRECTIONS = [
    ("*", {"DATA.PATH_LABEL_SEPARATOR": "auto"}),
    ("v1/exp/*x?_k?00", dict(zip(VIEWS, (4, 1), strict=True))),
    ("v1/exp/*_sthv?_*", dict(zip(VIEWS, (1, 3), strict=True))),
    ("v2/exp/k?00/*_f32x*", dict(zip(VIEWS, (2, 3), strict=True))),
    ("v2/exp/k?00/*_f64x*", dict(zip(VIEWS, (2, 3), strict=True))),
    ("v2/exp/k?00/frozen_*_f32x*", dict(zip(VIEWS, (4, 3), strict=True))),
    ("v2/exp/anet/*", {"TRAIN.DATASET": "ant"}),
    ("v2/exp/hacs/*", {"TRAIN.DATASET": "ant"}),
    ("v2/exp/mit/*", {"TRAIN.DATASET": "mit"}),
    ("*_hmdb51_*", {"MODEL.NUM_CLASSES": 51}),
    ("v1/*", {"MODEL.INIT_HEAD": "new"}),
    ("v2/*", {"MODEL.INIT_HEAD": "new"}),
    ("v2/exp/k400/*+k710*", {"MODEL.INIT_HEAD": "map:k710_to_k400"}),
    ("v2/exp/k600/*+k710*", {"MODEL.INIT_HEAD": "map:k710_to_k600"}),
    ("v2/exp/k700/*+k710*", {"MODEL.INIT_HEAD": "map:k710_to_k700"}),
]
CLIP = {"uniformerv2_b16": "ViT-B-16", "uniformerv2_l14": "ViT-L-14", "uniformerv2_l14_336": "ViT-L-14-336px"}


def load(path: str, *overrides):
    return load_config(str(ROOT / path), overrides, runs_here=False)


LOADED = {path: load(path) for path in CONFIGS}
ONE_GPU = [path for path in CONFIGS if path.endswith("_1gpu.yaml")]
BY_RECIPE = {cfg.RECIPE: path for path, cfg in LOADED.items() if cfg.RECIPE and path not in ONE_GPU}


@pytest.mark.parametrize("path", CONFIGS)
def test_it_builds(path):
    cfg = LOADED[path]
    with torch.device("meta"):
        model = build_model(cfg)
    classifiers = [model.get_submodule(name) for name in model.classifier]
    assert [layer.out_features for layer in classifiers] == [cfg.MODEL.NUM_CLASSES] * len(classifiers)


def released(name: str) -> dict:
    """What took effect in a released recipe, with our corrections."""
    own = dict(FACTS["recipes"][name])
    facts = FACTS["families"][own.pop("family")] | own
    facts = {key: value for key, value in facts.items() if value is not None}
    for pattern, values in CORRECTIONS:
        if fnmatch(name, pattern):
            facts |= values
    if facts.get("UNIFORMER.MLP_RATIO") == [4.0] * 4:
        facts["UNIFORMER.MLP_RATIO"] = 4.0
    if name.startswith("v2/"):  # a path there is a name here, and CLIP's weights a name as well
        file = (
            os.path.basename(facts["MODEL.INIT_FROM"]).removesuffix(".pyth").replace("k400+k710", "k400_k710")
        )
        facts["MODEL.INIT_FROM"] = file or CLIP[facts["UNIFORMERV2.BACKBONE"]]
    return facts


@pytest.mark.parametrize("name", FACTS["recipes"])
def test_it_is_what_the_release_ran(name):
    cfg = LOADED[BY_RECIPE[name]]
    ours = dict(flatten(cfg))
    if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS:
        ours |= {key: ours[key] * cfg.NUM_SHARDS for key in LRS}
    facts = released(name)
    assert {key: ours[key] for key in facts} == {
        key: pytest.approx(value) if isinstance(value, float) else value for key, value in facts.items()
    }
    defaults = dict(flatten(get_cfg()))
    sections = ("DATA", "AUG", "MIXUP", "SOLVER", "MODEL", "UNIFORMER", "UNIFORMERV2")
    others = {key for key in ours if key.split(".")[0] in sections and key not in facts}
    others -= {"DATA.PATH_TO_DATA_DIR", "DATA.PATH_PREFIX"}
    assert {key: ours[key] for key in others} == {key: defaults[key] for key in others}


def test_every_recipe_is_there_once():
    assert sorted(BY_RECIPE) == sorted(FACTS["recipes"]) and len(BY_RECIPE) == 88
    assert len({cfg.OUTPUT_DIR for cfg in LOADED.values()}) == len(CONFIGS)


def test_recipes_are_short_and_repeat_nothing():
    blocks = {}
    for path in [*BY_RECIPE.values(), *ONE_GPU]:
        lines = (ROOT / path).read_text().splitlines()
        assert len(lines) <= 15, path
        settings = [line for line in lines if line.startswith("  ")]
        for first, second, third, fourth in zip(*(settings[n:] for n in range(4)), strict=False):
            assert (first, second, third, fourth) not in blocks, (path, blocks[first, second, third, fourth])
            blocks[first, second, third, fourth] = path


@pytest.mark.parametrize("path", CONFIGS)
def test_no_recipe_names_a_place(path, monkeypatch, tmp_path):
    from slowfast_uniformer.paths import expand

    cfg = LOADED[path]
    if cfg.RECIPE:
        monkeypatch.setenv(f"{path.split('/')[1].upper()}_DIR", str(tmp_path))
        assert expand(cfg.DATA.PATH_TO_DATA_DIR) == expand(cfg.DATA.PATH_PREFIX) == str(tmp_path)


def test_small_and_base_recipes_have_a_one_gpu_version():
    small = [path for path in BY_RECIPE.values() if "/uniformer_s" in path or "/uniformerv2_b16" in path]
    assert ONE_GPU == sorted(path.replace(".yaml", "_1gpu.yaml") for path in small)


@pytest.mark.parametrize("path", ONE_GPU)
def test_one_gpu_changes_the_machine_alone(path):
    whole, one = LOADED[path.replace("_1gpu", "")], LOADED[path]
    assert (one.NUM_GPUS, one.NUM_SHARDS, one.RECIPE) == (1, 1, whole.RECIPE)
    assert one.TRAIN.BATCH_SIZE == whole.TRAIN.BATCH_SIZE * whole.NUM_SHARDS
    each = whole.TRAIN.BATCH_SIZE // whole.NUM_GPUS  # what batch norms see
    assert one.TRAIN.BATCH_SIZE // one.TRAIN.ACCUM_STEPS == each
    machine = {"TRAIN.BATCH_SIZE", "TRAIN.ACCUM_STEPS", "NUM_GPUS", "NUM_SHARDS", "OUTPUT_DIR"}
    machine |= {"MODEL.USE_CHECKPOINT", "MODEL.CHECKPOINT_NUM"}
    theirs = dict(flatten(whole))
    assert {key for key, value in flatten(one) if value != theirs[key]} <= machine


HEAVIEST = (
    "k400/uniformer_s_8x8", "sthv1/uniformer_s_f32_k400", "hmdb51/uniformer_s",
    "k400/uniformerv2_b16_8x224", "sthv1/uniformerv2_b16_16x224", "sthv2/uniformerv2_b16_32x224",
)  # fmt: skip


@pytest.mark.parametrize("name", HEAVIEST)
def test_one_gpu_is_enough(name):
    memory = describe(LOADED[f"configs/{name}_1gpu.yaml"])["memory"]
    assert memory["train_peak"] < 18 * 2**30, (
        memory
    )  # of 24 GB; the estimate leaves the allocator's slack out


def warnings(*overrides) -> list[str]:
    notes = []
    load_config(str(ROOT / "configs/k400/uniformer_s.yaml"), overrides, notes, runs_here=False)
    return notes


@pytest.mark.parametrize(
    "overrides, parts",
    [
        (("TRAIN.BATCH_SIZE", 8), ["batch of 32", "has 8 at 0.0001", "2.5e-05"]),
        (("NUM_SHARDS", 2, "SOLVER.BASE_LR_SCALE_NUM_SHARDS", False), ["64 at 0.0001", "0.0002"]),
        (("DATA.TEST_CROP_SIZE", 256), ["DATA.TEST_CROP_SIZE: 256", "has 224"]),
        (("TEST.NUM_SPATIAL_CROPS", 3), ["4 x 3 views", "of 4 x 1"]),
        (("TEST.DATASET", "kinetics_sparse"), ["TEST.DATASET: kinetics_sparse", "another way"]),
    ],
)
def test_departures_are_told(overrides, parts):
    (note,) = warnings(*overrides)
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
def test_what_keeps_the_recipe_is_not_told(overrides):
    assert warnings(*overrides) == []


@pytest.mark.parametrize("name", ["v1/exp/uniformer_s16x4_ucf101_prek400", "v2/exp/anet/anet_l14_16x224"])
def test_a_released_file_with_its_overrides_is_accepted(name, tmp_path):
    own = dict(FACTS["recipes"][name])
    facts = {
        key: value for key, value in (FACTS["families"][own.pop("family")] | own).items() if value is not None
    }
    file = {"MODEL": {"ARCH": "uniformer", "LOSS_FUNC": "cross_entropy"}, "BN": {"USE_PRECISE_STATS": False}}
    for key, value in facts.items():
        section, _, leaf = key.rpartition(".")
        (file.setdefault(section, {}) if section else file)[leaf] = value
    overrides = ["TRAIN.SAVE_LATEST", "False", "SOLVER.MAX_EPOCH", str(file["SOLVER"].pop("MAX_EPOCH"))]
    overrides += ["DATA.PATH_PREFIX", "your_path_to_data", "OUTPUT_DIR", "$work_path"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(file))
    cfg = load_config(str(tmp_path / "config.yaml"), overrides, notes := [], runs_here=False)
    assert {key: value for key, value in flatten(cfg) if key in facts} == facts
    assert len(notes) == 4 and all(" ignored: " in note for note in notes)


def test_corrections_are_documented():
    text = (ROOT / "docs/recipes.md").read_text()
    keys = set(itertools.chain.from_iterable(values for _, values in CORRECTIONS))
    assert [key for key in keys | {"MODEL.INIT_FROM"} if key not in text] == []
