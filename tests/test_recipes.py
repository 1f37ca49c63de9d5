"""Every shipped YAML loads and builds its model, and those of released recipes say what those really ran.

golden/recipes.json holds the values that took effect in the releases: their defaults, YAML and shell script
together, for each family and then what a recipe has of its own.
"""

import json
import os
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import yaml

from slowfast_uniformer.analysis.model_cost import describe
from slowfast_uniformer.config.keys import flatten, get_cfg
from slowfast_uniformer.config.load import load_config, split_cfg_arguments
from slowfast_uniformer.models.registry import build_model

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("[!_]*/*.yaml"))
FACTS = json.loads((ROOT / "tests/golden/recipes.json").read_text())
SECTIONS = ("DATA", "AUG", "MIXUP", "SOLVER", "MODEL", "UNIFORMER", "UNIFORMERV2", "BN")
LRS = ("SOLVER.BASE_LR", "SOLVER.COSINE_END_LR", "SOLVER.WARMUP_START_LR")
PLACES = {"DATA.PATH_TO_DATA_DIR", "DATA.PATH_PREFIX"}
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
    ("*_ucf101_*", {"UNIFORMER.MLP_RATIO": 4.0}),
    ("*_hmdb51_*", {"UNIFORMER.MLP_RATIO": 4.0}),
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


def effective(name: str) -> dict:
    """What took effect in a released recipe."""
    own = dict(FACTS["recipes"][name])
    facts = FACTS["families"][own.pop("family")] | own
    return {key: value for key, value in facts.items() if value is not None}


def released(name: str) -> dict:
    """The same with our corrections."""
    facts = effective(name)
    facts.pop("UNIFORMERV2.DELETE_SPECIAL_HEAD", None)  # MODEL.INIT_HEAD, among the corrections
    for pattern, values in CORRECTIONS:
        if fnmatch(name, pattern):
            facts |= values
    if name.startswith("v2/"):  # a path there is a name here, and CLIP's weights a name as well
        file = os.path.basename(facts["MODEL.INIT_FROM"]).removesuffix(".pyth").replace("k400+k710", "k400_k710")
        facts["MODEL.INIT_FROM"] = file or CLIP[facts["UNIFORMERV2.BACKBONE"]]
    return facts


def near(values: dict) -> dict:
    """Numbers to compare with those of another table, sums of roundings left out."""
    return {key: pytest.approx(value) if isinstance(value, float) else value for key, value in values.items()}


@pytest.mark.parametrize("name", FACTS["recipes"])
def test_it_is_what_the_release_ran(name):
    cfg = LOADED[BY_RECIPE[name]]
    ours = dict(flatten(cfg))
    if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS:
        ours |= {key: ours[key] * cfg.NUM_SHARDS for key in LRS}
    facts = released(name)
    assert {key: ours[key] for key in facts} == near(facts)
    defaults = dict(flatten(get_cfg()))
    others = {key for key in ours if key.split(".")[0] in SECTIONS and key not in facts} - PLACES
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
        for block in zip(*(settings[n:] for n in range(3)), strict=False):
            assert blocks.setdefault(block, path) == path, (path, blocks[block])


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
    "k400/uniformer_s_8x8",
    "sthv1/uniformer_s_f32_k400",
    "hmdb51/uniformer_s",
    "k400/uniformerv2_b16_8x224",
    "sthv1/uniformerv2_b16_16x224",
    "sthv2/uniformerv2_b16_32x224",
)


@pytest.mark.parametrize("name", HEAVIEST)
def test_one_gpu_is_enough(name):
    memory = describe(LOADED[f"configs/{name}_1gpu.yaml"])["memory"]
    assert memory["train_peak"] < 14 * 2**30, memory  # of 24: the allocator's slack is not in the estimate


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


# What the releases' scripts override, as text; DATA.PATH_PREFIX and the like besides.
SCRIPTED = (
    "TRAIN.BATCH_SIZE",
    "NUM_GPUS",
    "NUM_SHARDS",
    "SOLVER.MAX_EPOCH",
    "SOLVER.BASE_LR",
    "TEST.TEST_BEST",
    "SOLVER.WARMUP_EPOCHS",
    "DATA.IMAGE_TEMPLATE",
    "DATA.PATH_LABEL_SEPARATOR",
    "MODEL.CHECKPOINT_NUM",
    "UNIFORMER.DROP_DEPTH_RATE",
)
UNSAID = ("SOLVER.BACKBONE_LR_RATIO", "TEST.ADD_SOFTMAX")  # their programs' own defaults


def released_file(facts: dict, v2: bool) -> dict:
    """A YAML such as the releases ship, without what their scripts override or their programs know."""
    file: dict = {
        "MODEL": {"ARCH": "uniformerv2" if v2 else "uniformer", "LOSS_FUNC": "cross_entropy"},
        "BN": {"USE_PRECISE_STATS": False},
        "RESNET": {"DEPTH": 50},
        "DETECTION": {"ENABLE": False},
        "TENSORBOARD": {"MODEL_VIS": {"ENABLE": False, "GRAD_CAM": {"ENABLE": True}}},
    }
    names = {"MODEL.INIT_FROM": "UNIFORMERV2.PRETRAIN" if v2 else "UNIFORMER.PRETRAIN_NAME"}
    for key, value in facts.items():
        if key not in SCRIPTED + UNSAID:
            section, _, leaf = names.get(key, key).rpartition(".")
            file.setdefault(section, {})[leaf] = value
    return file


@pytest.mark.parametrize("name", FACTS["recipes"])
def test_a_released_file_with_its_overrides_is_the_recipe_but_for_corrections(name, tmp_path):
    facts, recipe = effective(name), dict(flatten(LOADED[BY_RECIPE[name]]))
    if facts["SOLVER.BASE_LR_SCALE_NUM_SHARDS"]:
        facts |= {key: facts[key] / facts["NUM_SHARDS"] for key in LRS}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(released_file(facts, v2=name.startswith("v2/"))))
    overrides = [text for key in SCRIPTED if key in facts for text in (key, str(facts[key]))]
    overrides += ["DATA.PATH_PREFIX", "your_path", "TRAIN.SAVE_LATEST", "False", "OUTPUT_DIR", "$work_path"]
    cfg = dict(flatten(load_config(str(tmp_path / "config.yaml"), overrides, notes := [], runs_here=False)))

    corrected = {key for pattern, values in CORRECTIONS if fnmatch(name, pattern) for key in values}
    wanted = {key: recipe[key] for key in set(recipe) & {*facts, "MODEL.INIT_HEAD"}}
    wanted |= {key: facts[key] for key in corrected if key in facts}
    wanted["MODEL.INIT_FROM"] = facts["MODEL.INIT_FROM"] or CLIP[facts["UNIFORMERV2.BACKBONE"]]
    if facts.get("UNIFORMERV2.DELETE_SPECIAL_HEAD"):
        wanted["MODEL.INIT_HEAD"] = "new"
    assert {key: cfg[key] for key in wanted} == near(wanted)
    ignored = {note.split(" ignored: ")[0] for note in notes if " ignored: " in note}
    assert ignored >= {"MODEL.ARCH", "RESNET.DEPTH", "TENSORBOARD.MODEL_VIS.ENABLE", "TRAIN.SAVE_LATEST"}
    assert len(notes) == len(ignored) + 1 and notes[-1].startswith("MODEL.ARCH: ")


# In the same table: names without places, learning rates scaled later, and what is not compared.
ALIKE = {"MODEL.INIT_FROM", *LRS, *PLACES, "TRAIN.CHECKPOINT_PERIOD", "RNG_SEED", "TEST.BATCH_SIZE"}
ALIKE |= {"DATA_LOADER.NUM_WORKERS", "TENSORBOARD.ENABLE", "OUTPUT_DIR"}


def test_the_documented_corrections_are_those_made():
    table = (ROOT / "docs/recipes.md").read_text().split("| key | there |")[1].split("\n\n")[0]
    rows = [line.split("|") for line in table.splitlines()[2:]]
    documented = {key for row in rows for key in re.findall(r"`([A-Z0-9_.]+)`", row[1])}
    assert documented == {key for _, values in CORRECTIONS for key in values} | ALIKE
    assert all(len(row) == 6 and row[4].strip() for row in rows)


def test_the_page_s_commands_are_understood():
    lines = (ROOT / "docs/recipes.md").read_text().splitlines()
    commands = [line.split() for line in lines if line.startswith("    python tools/run_net.py --cfg configs/")]
    configs = [load_config(*split_cfg_arguments(words[3:], []), runs_here=False) for words in commands]
    assert [cfg.RECIPE for cfg in configs] == ["v1/exp/uniformer_s16x4_k400"]
