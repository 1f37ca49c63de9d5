"""Every shipped YAML loads and builds its model, and a released recipe has the values that the release ran with.

golden/recipes.json holds the values that took effect in the releases (their defaults, YAML and shell script together):
those of each family, and those of single recipes.
"""

import functools
import json
import os
import re
from fnmatch import fnmatch

import pytest
import torch
import yaml
from conftest import ROOT

from slowfast_uniformer.analysis.model_cost import describe
from slowfast_uniformer.config import recipes
from slowfast_uniformer.config.keys import flatten, get_cfg
from slowfast_uniformer.config.load import load_config, split_cfg_arguments
from slowfast_uniformer.config.recipes import find_config, list_recipes
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import build_model

CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("[!_]*/*.yaml"))
FACTS = json.loads((ROOT / "tests/golden/recipes.json").read_text())
SECTIONS = ("DATA", "AUG", "MIXUP", "SOLVER", "MODEL", "UNIFORMER", "UNIFORMERV2", "BN")
LRS = ("SOLVER.BASE_LR", "SOLVER.COSINE_END_LR", "SOLVER.WARMUP_START_LR")
PLACES = {"DATA.PATH_TO_DATA_DIR", "DATA.PATH_PREFIX"}
# Where the YAMLs differ on purpose, by the name of the recipe (docs/how_recipes_relate.md gives the reasons).
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


@functools.cache
def classifier_sizes(architecture: str, path: str) -> list[int]:
    """Output features of the classifiers of a config's model; `architecture` says which configs have the same model."""
    with torch.device("meta"):
        model = build_model(LOADED[path])
    return [model.get_submodule(name).out_features for name in model.classifier]


def test_every_model_is_built():
    first: dict[str, str] = {}
    for path, cfg in LOADED.items():
        clip = (cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE)
        architecture = str((cfg.MODEL, cfg.UNIFORMER, cfg.UNIFORMERV2, clip))
        sizes = classifier_sizes(architecture, first.setdefault(architecture, path))
        assert sizes and set(sizes) == {cfg.MODEL.NUM_CLASSES}, path


def test_shipped_configs_have_names(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert {os.path.relpath(path, ROOT) for path in list_recipes().values()} == set(CONFIGS)
    assert list_recipes()["k400/uniformer_s"] == find_config("k400/uniformer_s")
    for text in ("k400/uniformer_s.yaml", "configs/k400/uniformer_s.yaml", "configs/k400/uniformer_s"):
        assert find_config(text) == find_config("k400/uniformer_s")
    cfg = load_config(["k400/uniformer_s", "custom/own_videos"], runs_here=False)
    assert cfg.UNIFORMER == LOADED["configs/k400/uniformer_s.yaml"].UNIFORMER and not cfg.RECIPE


def test_a_file_wins_over_a_recipe_s_name(monkeypatch, tmp_path):
    (tmp_path / "k400").mkdir()
    (tmp_path / "k400/uniformer_s.yaml").write_text("DATA: {NUM_FRAMES: 3}")
    monkeypatch.chdir(tmp_path)
    assert load_config("k400/uniformer_s.yaml", runs_here=False).DATA.NUM_FRAMES == 3
    assert load_config("k400/uniformer_s", runs_here=False).DATA.NUM_FRAMES == 16


@pytest.mark.parametrize("text", ["my.yaml", "x" * 300])  # the second is too long for a file's name
def test_without_a_similar_recipe_none_is_suggested(text):
    with pytest.raises(UserError, match=f"^{text}: no such config file or recipe. `uniformer config` lists"):
        find_config(text)


def test_an_unknown_recipe_is_refused_with_the_nearest():
    for text in ("k400/uniformers", "configs/k400/uniformers.yaml"):
        with pytest.raises(UserError, match=f"{text}: no such .* did you mean k400/uniformer_s"):
            load_config(text)


def test_configs_inside_the_package_come_first(monkeypatch, tmp_path):
    package = tmp_path / "package"
    (tmp_path / "configs/a").mkdir(parents=True)
    (tmp_path / "configs/a/beside.yaml").touch()
    monkeypatch.setattr(recipes, "PACKAGE", package)
    assert list(list_recipes()) == ["a/beside"]
    (package / "configs/a").mkdir(parents=True)
    (package / "configs/a/inside.yaml").touch()
    assert list(list_recipes()) == ["a/inside"]


def test_a_missing_folder_of_configs_is_no_crash(monkeypatch, tmp_path):
    monkeypatch.setattr(recipes, "PACKAGE", tmp_path / "package")
    with pytest.raises(UserError, match="k400/x: no such config file or recipe"):
        load_config("k400/x")


def effective(name: str) -> dict:
    """Values that took effect in a released recipe."""
    own = dict(FACTS["recipes"][name])
    facts = FACTS["families"][own.pop("family")] | own
    return {key: value for key, value in facts.items() if value is not None}


def released(name: str) -> dict:
    """The same with the corrections."""
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
    """Values to compare with others up to rounding."""
    return {key: pytest.approx(value) if isinstance(value, float) else value for key, value in values.items()}


@pytest.mark.parametrize("name", FACTS["recipes"])
def test_a_recipe_has_the_values_of_the_release(name):
    cfg = LOADED[BY_RECIPE[name]]
    ours = dict(flatten(cfg))
    if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS:
        ours |= {key: ours[key] * cfg.NUM_SHARDS for key in LRS}
    facts = released(name)
    assert {key: ours[key] for key in facts} == near(facts)
    defaults = dict(flatten(get_cfg()))
    others = {key for key in ours if key.split(".")[0] in SECTIONS and key not in facts} - PLACES
    assert {key: ours[key] for key in others} == {key: defaults[key] for key in others}


def test_every_released_recipe_is_shipped_once():
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
def test_recipes_take_their_dataset_from_a_variable(path, monkeypatch, tmp_path):
    if LOADED[path].RECIPE:
        monkeypatch.setenv(f"{path.split('/')[1].upper()}_DIR", str(tmp_path))
        cfg = load(path)
        assert cfg.DATA.PATH_TO_DATA_DIR == cfg.DATA.PATH_PREFIX == str(tmp_path)


def test_small_and_base_recipes_have_a_one_gpu_version():
    small = [path for path in BY_RECIPE.values() if "/uniformer_s" in path or "/uniformerv2_b16" in path]
    assert ONE_GPU == sorted(path.replace(".yaml", "_1gpu.yaml") for path in small)


@pytest.mark.parametrize("path", ONE_GPU)
def test_one_gpu_version_changes_only_the_machine(path):
    whole, one = LOADED[path.replace("_1gpu", "")], LOADED[path]
    assert (one.NUM_GPUS, one.NUM_SHARDS, one.RECIPE) == (1, 1, whole.RECIPE)
    assert one.TRAIN.BATCH_SIZE == whole.TRAIN.BATCH_SIZE * whole.NUM_SHARDS
    each = whole.TRAIN.BATCH_SIZE // whole.NUM_GPUS  # batch size of batch norms
    assert one.TRAIN.BATCH_SIZE // one.TRAIN.ACCUM_STEPS == each
    machine = {"TRAIN.BATCH_SIZE", "TRAIN.ACCUM_STEPS", "NUM_GPUS", "NUM_SHARDS", "OUTPUT_DIR"}
    machine |= {"MODEL.USE_CHECKPOINT", "MODEL.CHECKPOINT_NUM"}
    theirs = dict(flatten(whole))
    assert {key for key, value in flatten(one) if value != theirs[key]} <= machine


HEAVIEST = [
    "k400/uniformerv2_b16_8x224",
    "k400/uniformer_s_8x8",
    "sthv1/uniformer_s_f32_k400",
    "hmdb51/uniformer_s",
    "sthv1/uniformerv2_b16_16x224",
    "sthv2/uniformerv2_b16_32x224",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVIEST)
def test_one_gpu_has_enough_memory(name):
    memory = describe(LOADED[f"configs/{name}_1gpu.yaml"])["memory"]
    assert memory["train_peak"] < 19 * 2**30, memory  # of 24: the estimate leaves out the overhead of the allocator


# Keys that the releases' scripts override, besides DATA.PATH_PREFIX and the like.
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
PROGRAM_DEFAULTS = ("SOLVER.BACKBONE_LR_RATIO", "TEST.ADD_SOFTMAX")  # defaults of their programs that differ from ours


def released_file(facts: dict, v2: bool) -> dict:
    """A YAML as the releases ship it, without what their scripts override or their programs set."""
    file: dict = {
        "MODEL": {"ARCH": "uniformerv2" if v2 else "uniformer", "LOSS_FUNC": "cross_entropy"},
        "BN": {"USE_PRECISE_STATS": False},
        "RESNET": {"DEPTH": 50},
        "DETECTION": {"ENABLE": False},
        "TENSORBOARD": {"MODEL_VIS": {"ENABLE": False, "GRAD_CAM": {"ENABLE": True}}},
    }
    names = {"MODEL.INIT_FROM": "UNIFORMERV2.PRETRAIN" if v2 else "UNIFORMER.PRETRAIN_NAME"}
    for key, value in facts.items():
        if key not in SCRIPTED + PROGRAM_DEFAULTS:
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
    overrides += ["DATA.PATH_PREFIX", "your_path", "TRAIN.SAVE_LATEST", "False", "OUTPUT_DIR", "work_path"]
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


# Keys in the same table whose values agree otherwise (names without folders, scaled learning rates) or are not compared
ALIKE = {"MODEL.INIT_FROM", *LRS, *PLACES, "TRAIN.CHECKPOINT_PERIOD", "RNG_SEED", "TEST.BATCH_SIZE"}
ALIKE |= {"DATA_LOADER.NUM_WORKERS", "TENSORBOARD.ENABLE", "OUTPUT_DIR"}


def test_all_corrections_are_documented():
    table = (ROOT / "docs/how_recipes_relate.md").read_text().split("| key | there |")[1].split("\n\n")[0]
    rows = [line.split("|") for line in table.splitlines()[2:]]
    documented = {key for row in rows for key in re.findall(r"`([A-Z0-9_.]+)`", row[1])}
    assert documented == {key for _, values in CORRECTIONS for key in values} | ALIKE
    assert all(len(row) == 6 and row[4].strip() for row in rows)


def test_the_commands_in_docs_recipes_are_valid():
    lines = (ROOT / "docs/recipes.md").read_text().splitlines()
    commands = [line.split("--cfg ")[1].split() for line in lines if line.startswith("    uniformer train --cfg ")]
    configs = [load_config(*split_cfg_arguments(words, []), runs_here=False) for words in commands]
    assert [cfg.RECIPE for cfg in configs] == ["v1/exp/uniformer_s16x4_k400"]
