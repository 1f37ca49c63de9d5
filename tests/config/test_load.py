"""Loading a config: read, merge, check, freeze; variants, and the words of a command line."""

import math
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

from slowfast_uniformer.config import check
from slowfast_uniformer.config.keys import flatten, get_cfg
from slowfast_uniformer.config.load import difference, load_config, load_recipe, split_cfg_arguments, to_dict, variant
from slowfast_uniformer.errors import UserError

CPU = ["NUM_GPUS", 0]


def write(path, text):
    path.write_text(text)
    return str(path)


def test_base_files_and_overrides_win_in_order(tmp_path):
    write(tmp_path / "base.yaml", "NUM_GPUS: 0\nSOLVER: {BASE_LR: 1e-4, MAX_EPOCH: 5}\n")
    first = write(tmp_path / "a.yaml", "_BASE_: base.yaml\nSOLVER: {MAX_EPOCH: 6}\n")
    second = write(tmp_path / "b.yaml", "SOLVER: {MAX_EPOCH: 7}\n")
    assert load_config(first).SOLVER.MAX_EPOCH == 6
    cfg = load_config([first, second])
    assert (cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.BASE_LR) == (7, 1e-4)
    assert load_config([first, second], ["SOLVER.MAX_EPOCH", "8"]).SOLVER.MAX_EPOCH == 8


def test_overrides_may_be_a_dict_and_hold_paths(tmp_path):
    values = {"NUM_GPUS": 0, "OUTPUT_DIR": tmp_path / "1", "SOLVER": {"MAX_EPOCH": 8}, "MODEL.NUM_CLASSES": "9"}
    cfg = load_config(None, values)
    assert (cfg.OUTPUT_DIR, cfg.SOLVER.MAX_EPOCH, cfg.MODEL.NUM_CLASSES) == (str(tmp_path / "1"), 8, 9)
    assert load_config(None, [*CPU, "OUTPUT_DIR", tmp_path]).OUTPUT_DIR == str(tmp_path)
    with pytest.raises(UserError, match="SOLVER.MAX_EPOCHS"):
        load_config(None, {"SOLVER.MAX_EPOCHS": 8})


def test_resolved_config_loads_to_itself(tmp_path):
    cfg = load_config(None, [*CPU, "SOLVER.BASE_LR", "3e-4", "MODEL.ARGS.WIDTH", "12", "TRAIN.MIXED_PRECISION", "True"])
    again = load_config(write(tmp_path / "c.yaml", cfg.dump()))
    assert to_dict(again) == to_dict(cfg)
    assert cfg.MODEL.ARGS.WIDTH == 12 and cfg.TRAIN.MIXED_PRECISION == "fp16"


@pytest.mark.parametrize("nested", [["MODEL.ARGS.HEAD.width", "12"], ["MODEL.ARGS", "{'HEAD': {'width': 12}}"]])
def test_nested_free_keys_can_be_written_and_read_again(nested, tmp_path):
    cfg = load_config(None, [*CPU, *nested])
    again = load_config(write(tmp_path / "c.yaml", cfg.dump()))
    assert cfg.MODEL.ARGS.HEAD.width == 12 and to_dict(again) == to_dict(cfg)


def test_a_value_without_default_can_be_reset_to_null(tmp_path):
    path = write(tmp_path / "c.yaml", "UNIFORMER: {QKV_SCALE: 0.5}\n")
    assert load_config(path, CPU).UNIFORMER.QKV_SCALE == 0.5
    assert load_config(path, [*CPU, "UNIFORMER.QKV_SCALE", "null"]).UNIFORMER.QKV_SCALE is None


def test_frozen_after_loading():
    with pytest.raises(AttributeError):
        load_config(None, CPU).NUM_SHARDS = 2


def test_defaults_are_not_shared_between_configs():
    first = get_cfg()
    first.DATA.MEAN.append(1.0)
    first.MODEL.ARGS.WIDTH = 1
    assert get_cfg().DATA.MEAN == [0.45, 0.45, 0.45] and get_cfg().MODEL.ARGS == {}


def test_a_variant_is_a_new_frozen_config():
    cfg = load_config(None, [*CPU, "MODEL.ARGS.WIDTH", "12"])
    other = variant(cfg, ["DATA.NUM_FRAMES", 16])
    assert other.is_frozen() and cfg.DATA.NUM_FRAMES == 8
    assert difference(other) == {**difference(cfg), "DATA.NUM_FRAMES": 16}
    with pytest.raises(UserError, match="DATA.NUM_FRAMES: 0 must be 1 or more"):
        variant(cfg, ["DATA.NUM_FRAMES", 0])
    with pytest.raises(UserError, match="NUM_GPUS: 4096"):
        variant(cfg, ["NUM_GPUS", 4096, "TRAIN.BATCH_SIZE", 4096, "TEST.BATCH_SIZE", 4096], runs_here=True)


def test_difference_names_what_changed():
    changed = difference(load_config(None, [*CPU, "DATA.NUM_FRAMES", "16"]))
    assert changed == {"NUM_GPUS": 0, "DATA.NUM_FRAMES": 16, "DIST_BACKEND": "gloo"}


@pytest.mark.parametrize(
    "text, expected",
    [("SOLVER: {BASE_LR: 1}", 1.0), ("SOLVER: {BASE_LR: '1e-3'}", 1e-3), ("SOLVER: {BASE_LR: 1e-3}", 1e-3)],
)
def test_numbers_are_read_as_numbers(tmp_path, text, expected):
    assert load_config(write(tmp_path / "c.yaml", text), CPU).SOLVER.BASE_LR == expected


@pytest.mark.parametrize(
    "overrides, parts",
    [
        (["SOLVER.BASE_LRS", "1"], ["command line", "SOLVER.BASE_LRS", "SOLVER.BASE_LR"]),
        (["SOLVER.MAX_EPOCH", "1.5"], ["SOLVER.MAX_EPOCH", "an integer"]),
        (["SOLVER.MAX_EPOCH", "True"], ["SOLVER.MAX_EPOCH", "an integer"]),
        (["DATA.RANDOM_FLIP", "maybe"], ["DATA.RANDOM_FLIP", "True or False"]),
        (["DATA.MEAN", "0.5"], ["DATA.MEAN", "a list"]),
        (["SOLVER.MAX_EPOCH"], ["SOLVER.MAX_EPOCH", "KEY VALUE"]),
        (
            ["NUM_GPUS", "4096", "TRAIN.BATCH_SIZE", "4096", "TEST.BATCH_SIZE", "4096"],
            ["NUM_GPUS: 4096", "this machine has"],
        ),
        (["NUM_GPUS", "-1"], ["NUM_GPUS: -1", "0 or more"]),
        (["TRAIN.BATCH_SIZE", "0"], ["TRAIN.BATCH_SIZE: 0", "1 or more"]),
        (["NUM_GPUS", "3"], ["TRAIN.BATCH_SIZE: 64", "3 GPUs"]),
        (["MODEL.ARGS", "null"], ["MODEL.ARGS", "a section"]),
        (["SOLVER.OPTIMIZING_METHOD", "lion"], ["SOLVER.OPTIMIZING_METHOD", "adamw"]),
        (["SOLVER.LR_POLICY", "cosin"], ["SOLVER.LR_POLICY", "'cosin'", "'cosine'"]),
        (["AUG.INTERPOLATION", "lanczos"], ["AUG.INTERPOLATION", "'lanczos'", "'bicubic'"]),
        (["UNIFORMERV2.ACTIVATION", "swish"], ["UNIFORMERV2.ACTIVATION", "'swish'", "'quick_gelu', 'gelu'"]),
        (["UNIFORMERV2.FUSION", "serial"], ["UNIFORMERV2.FUSION", "'serial'", "'sequential', 'parallel'"]),
        (["TEST.NUM_SPATIAL_CROPS", "2"], ["TEST.NUM_SPATIAL_CROPS", "3"]),
        (["SHARD_ID", "1"], ["SHARD_ID", "NUM_SHARDS"]),
        (["DATA.MEAN", "[0.5]"], ["DATA.MEAN: [0.5] must be a list of 3 numbers"]),
        (["MULTIGRID.SHORT_CYCLE", "True"], ["MULTIGRID", "not supported"]),
        (["DETECTION.ENABLE", "True"], ["DETECTION", "not supported"]),
        (["TRAIN.CHECKPOINT_TYPE", "caffe2"], ["CHECKPOINT_TYPE", "Caffe2"]),
        (["DATA.TRAIN_JITTER_SCALES_RELATIVE", "[0.1, 1.0]"], ["TRAIN_JITTER_ASPECT_RELATIVE", "both or neither"]),
        (["SOLVER.LR_POLICY", "steps_with_relative_lrs"], ["SOLVER.STEPS", "SOLVER.LRS"]),
        (["TRAIN", "1"], ["TRAIN is a section", "write TRAIN.ENABLE"]),
    ],
)
def test_bad_values_name_the_key_and_the_remedy(overrides, parts):
    with pytest.raises(UserError) as error:
        load_config(None, [*CPU, *overrides] if "NUM_GPUS" not in overrides else overrides)
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize(
    "text, part",
    [
        ("A: [1", "line"),
        ("- 1", "sections"),
        ("", "sections"),
        ("_BASE_: none.yaml", "none.yaml"),
        ("_BASE_: base.yaml\nTRAIN: {ENABLE: True}", "TRAIN is a section in one file"),
    ],
)
def test_bad_files_are_named(tmp_path, text, part):
    write(tmp_path / "base.yaml", "TRAIN: 1")
    path = write(tmp_path / "bad.yaml", text)
    with pytest.raises(UserError, match="bad.yaml") as error:
        load_config(path)
    assert part in str(error.value)
    with pytest.raises(UserError, match="absent.yaml"):
        load_config(str(tmp_path / "absent.yaml"))


def test_released_keys_without_effect_are_named_as_ignored(tmp_path):
    text = """
MULTIGRID: {SHORT_CYCLE: False, LONG_CYCLE: False}
DETECTION: {ENABLE: False, ALIGNED: False}
DATA: {DECODING_BACKEND: decord, TRAIN_JITTER_MOTION_SHIFT: False, INPUT_CHANNEL_NUM: [3]}
MODEL: {ARCH: uniformer, LOSS_FUNC: soft_cross_entropy}
BN: {USE_PRECISE_STATS: False}
UNIFORMER: {PRETRAIN_NAME: uniformer_small_in1k, STAGE_TYPE: [0, 0, 1, 1]}
NUM_GPUS: 0
"""
    notes: list[str] = []
    cfg = load_config(write(tmp_path / "released.yaml", text), [], notes)
    assert cfg.MODEL.INIT_FROM == "uniformer_small_in1k"
    named = {note.split(" ignored")[0] for note in notes if " ignored" in note}
    assert named == {
        "MULTIGRID.SHORT_CYCLE",
        "MULTIGRID.LONG_CYCLE",
        "DETECTION.ENABLE",
        "DETECTION.ALIGNED",
        "DATA.DECODING_BACKEND",
        "DATA.TRAIN_JITTER_MOTION_SHIFT",
        "DATA.INPUT_CHANNEL_NUM",
        "MODEL.ARCH",
        "MODEL.LOSS_FUNC",
        "BN.USE_PRECISE_STATS",
        "UNIFORMER.STAGE_TYPE",
    }


@pytest.mark.parametrize(
    "overrides, wanted",
    [
        ([], (0.1, "ViT-L-14", "new")),
        (["SOLVER.BACKBONE_LR_RATIO", "0", "MODEL.INIT_FROM", ""], (0.0, "", "new")),
        (["UNIFORMERV2.PRETRAIN", "k710/k710_uniformerv2_l14_8x224.pyth"], (0.1, None, "map:k710_to_k600")),
        (["UNIFORMERV2.PRETRAIN", "a", "UNIFORMERV2.DELETE_SPECIAL_HEAD", "True"], (0.1, "a", "new")),
        (["UNIFORMERV2.PRETRAIN", "a.pyth", "MODEL.INIT_HEAD", "new"], (0.1, "a.pyth", "new")),
        (["UNIFORMERV2.PRETRAIN", "a.pyth"], (0.1, "a.pyth", "keep")),
    ],
)
def test_a_released_file_leaves_open_what_its_program_knows(tmp_path, overrides, wanted):
    text = """
MODEL: {ARCH: uniformerv2, NUM_CLASSES: 600}
UNIFORMERV2: {BACKBONE: uniformerv2_l14, PRETRAIN: ''}
NUM_GPUS: 0
"""
    cfg = load_config(write(tmp_path / "v2.yaml", text), overrides, notes := [])
    ratio, source, head = wanted
    assert (cfg.SOLVER.BACKBONE_LR_RATIO, cfg.MODEL.INIT_HEAD) == (ratio, head)
    assert cfg.MODEL.INIT_FROM == (overrides[1] if source is None else source)
    assert notes[-1].startswith("MODEL.ARCH: uniformerv2 ")
    assert ("SOLVER.BACKBONE_LR_RATIO 0.1" in notes[-1]) == ("SOLVER.BACKBONE_LR_RATIO" not in overrides)


@pytest.mark.parametrize(("epochs", "noted"), [(5, True), (4, True), (6, False)])
def test_a_warm_up_that_lasts_until_the_end_is_noted(epochs, noted):
    keys = ["NUM_GPUS", 0, "SOLVER.WARMUP_EPOCHS", 5.0, "SOLVER.MAX_EPOCH", epochs]
    load_config(None, keys, notes := [])
    assert any("the learning rate is still rising" in note for note in notes) == noted


@pytest.mark.parametrize("name", ["2022_01_13", "1e5", "007", "runs/a b"])
def test_a_name_on_the_command_line_stays_as_it_is(name):
    assert load_config(None, ["OUTPUT_DIR", name, *CPU]).OUTPUT_DIR == name


PATH_KEYS = yaml.safe_load((ROOT / "slowfast_uniformer/config/limits.yaml").read_text())["paths"]
# Keys of text that are no paths; every key of text has to be in one of the two lists, or to have choices.
OTHER_TEXT = """TRAIN.DATASET TEST.DATASET DATA.PATH_LABEL_SEPARATOR DATA.IMAGE_TEMPLATE AUG.AA_TYPE MODEL.MODEL_NAME
MODEL.IMPORT SOLVER.CLASS_WEIGHTS UNIFORMERV2.NORM_EPS DIST_BACKEND RECIPE""".split()


def test_every_key_of_text_is_a_path_or_known_not_to_be_one():
    limits = yaml.safe_load((ROOT / "slowfast_uniformer/config/limits.yaml").read_text())
    texts = {key for key, value in flatten(get_cfg()) if isinstance(value, str)}
    assert texts == {*PATH_KEYS, *OTHER_TEXT, *(key for key in limits["choices"] if key in texts)}


@pytest.mark.parametrize("key", PATH_KEYS)
def test_home_and_variables_are_expanded_in_every_path(key, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DISK", "/disk")
    section, _, name = key.rpartition(".")
    mark = "map:" if key == "MODEL.INIT_HEAD" else ""
    line = f"{name}: '{mark}~/$DISK/x'\n"
    path = write(tmp_path / "c.yaml", f"{section}:\n  {line}" if section else line)
    flips = ["DATA.RANDOM_FLIP", True]
    for cfg in (load_config(path, [*CPU, *flips]), load_config(None, [*CPU, *flips, key, f"{mark}~/$DISK/x"])):
        assert dict(flatten(cfg))[key] == f"{mark}/home/me//disk/x"
        again = load_config(write(tmp_path / "resolved.yaml", cfg.dump()))  # as the run's config.yaml
        assert to_dict(again) == to_dict(variant(cfg)) == to_dict(cfg)


def test_a_path_with_a_variable_that_is_not_set_is_named_with_its_key(tmp_path, monkeypatch):
    monkeypatch.delenv("NOT_SET", raising=False)
    path = write(tmp_path / "c.yaml", "NUM_GPUS: 0\nDATA:\n  PATH_PREFIX: $NOT_SET/videos\n")
    with pytest.raises(
        UserError, match="c.yaml, line 3: DATA.PATH_PREFIX: .*the environment variable NOT_SET is not set"
    ):
        load_config(path)
    assert load_config(path, ["DATA.PATH_PREFIX", "videos"]).DATA.PATH_PREFIX == "videos"
    assert load_recipe(path).DATA.PATH_PREFIX == "$NOT_SET/videos"  # what a run overrides it need not know
    stored = {"DATA": {"PATH_PREFIX": "$NOT_SET/videos"}}  # of a checkpoint from another machine
    assert load_config(stored, CPU).DATA.PATH_PREFIX == "$NOT_SET/videos"


def test_a_config_file_is_found_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "c.yaml", "RNG_SEED: 5\n")
    assert load_config("~/c.yaml", CPU).RNG_SEED == 5


@pytest.mark.parametrize(
    "text, parts",
    [
        ("solver: {max_epoch: 3}", ["line 1: unknown key solver.max_epoch; did you mean SOLVER.MAX_EPOCH?"]),
        ("SOLVER:\n  MAX_EPOCH:3", ["line 1: SOLVER is a section", "KEY: value"]),
        ("SOLVER:\nMAX_EPOCH: 3", ["line 2: unknown key MAX_EPOCH"]),
        ("SOLVER:\n  - MAX_EPOCH: 3", ["line 1: SOLVER is a section"]),
        ("OUTPUT_DIR: ~", ["line 1: OUTPUT_DIR: None is not text"]),
        ("OUTPUT_DIR: None", ["line 1: OUTPUT_DIR: None is not text"]),
        ("TRACKER: no", ["TRACKER: False is not text", "quotes"]),
        ("DATA: {MEAN: [a, b, c]}", ["DATA.MEAN: ['a', 'b', 'c'] is not a list of numbers"]),
        ("UNIFORMER: {DEPTH: [3.5, 4, 8, 3]}", ["UNIFORMER.DEPTH: [3.5, 4, 8, 3] is not a list of numbers"]),
        ("UNIFORMER: {QKV_SCALE: abc}", ["UNIFORMER.QKV_SCALE: 'abc' is not a number"]),
        ("SOLVER: {SPECIAL_LIST: head}", ["SOLVER.SPECIAL_LIST: 'head' is not a list", "['a', 'b']"]),
    ],
)
def test_bad_values_in_files_name_line_and_key(tmp_path, text, parts):
    with pytest.raises(UserError) as error:
        load_config(write(tmp_path / "c.yaml", text), CPU)
    assert all(part in str(error.value) for part in ["c.yaml", *parts]), str(error.value)


def test_sections_whose_keys_are_commented_out_are_empty(tmp_path):
    assert load_config(write(tmp_path / "c.yaml", "SOLVER:\n#  MAX_EPOCH: 3\nTRAIN:\n"), CPU) == load_config(None, CPU)


def test_numbers_in_lists_that_yaml_reads_as_text(tmp_path):
    text = "SOLVER: {LRS: [1, 1e-1, 1e-2], STEPS: [0, '2', 4]}\nUNIFORMER: {DEPTH: ['3', 4.0, 8, 3], QKV_SCALE: 1e-1}\n"
    cfg = load_config(write(tmp_path / "c.yaml", text), CPU)
    assert (cfg.SOLVER.LRS, cfg.SOLVER.STEPS) == ([1, 0.1, 0.01], [0, 2, 4])
    assert (cfg.UNIFORMER.DEPTH, cfg.UNIFORMER.QKV_SCALE) == ([3, 4, 8, 3], 0.1)
    assert all(type(depth) is int for depth in cfg.UNIFORMER.DEPTH)


def test_nothing_is_no_text_where_that_is_the_default(tmp_path):
    cfg = load_config(write(tmp_path / "c.yaml", "DATA: {PATH_PREFIX: null}\nTRACKER: None\n"), CPU)
    assert (cfg.DATA.PATH_PREFIX, cfg.TRACKER) == ("", "")


def test_pictures_that_are_not_drawn_are_refused():
    with pytest.raises(UserError, match="TENSORBOARD.MODEL_VIS.ENABLE: True is not supported"):
        load_config(None, ["TENSORBOARD.MODEL_VIS.ENABLE", "True", *CPU])


def test_every_key_is_used():
    """Each key's name occurs in the package's code; test_config_reference.py tests that each has a meaning."""
    package = ROOT / "slowfast_uniformer"
    unrelated = {package / f"config/{name}.py" for name in ("compat", "recipe_notes", "smoke")}
    code = "\n".join(path.read_text() for path in package.rglob("*.py") if path not in unrelated)
    for key, _ in flatten(get_cfg()):
        users_own = key == "MODEL.ARGS"  # for the builders of users' models
        name = key.split(".")[-1]  # UNIFORMER's keys are read by the lower-case names of the model's arguments
        assert users_own or name in code or name.lower() in code, f"{key} is used nowhere"


def test_limits_are_of_keys_and_hold_for_the_defaults():
    defaults = dict(flatten(get_cfg()))
    limits = yaml.safe_load((ROOT / "slowfast_uniformer/config/limits.yaml").read_text())
    assert all(defaults[key] in allowed for key, allowed in limits["choices"].items())
    assert all(defaults[key] >= minimum for key, minimum in limits["minimum"].items())


def test_gpus_are_counted_without_torch_where_there_is_no_device(monkeypatch):
    monkeypatch.setattr(check.sys, "platform", "linux")
    monkeypatch.setattr(check, "GPU_DEVICES", ("/dev/none[0-9]*",))
    monkeypatch.setitem(sys.modules, "torch", None)  # an import would fail
    assert check.num_gpus() == 0
    monkeypatch.setattr(check, "GPU_DEVICES", ("/dev/null",))
    with pytest.raises(ImportError):
        check.num_gpus()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["DATA.SAMPLER", "class"], "DATA.SAMPLER: 'class' is not one of 'uniform', 'balanced', 'sqrt'"),
        (["SOLVER.CLASS_WEIGHTS", "inv"], "SOLVER.CLASS_WEIGHTS: 'inv' is not one of none, inverse, inv_sqrt, effecti"),
        (["SOLVER.CLASS_WEIGHTS", 3], "SOLVER.CLASS_WEIGHTS: '?3'? is not one of none, .*, or a list of numbers"),
        (["SOLVER.CLASS_WEIGHTS", [1, 2]], "SOLVER.CLASS_WEIGHTS: 2 weights, but MODEL.NUM_CLASSES is 3; give one for"),
        (["SOLVER.CLASS_WEIGHTS", "[1, 2, -1]"], "SOLVER.CLASS_WEIGHTS: -1 must be a number of 0 or more"),
        (["SOLVER.CLASS_WEIGHTS", [1, 2, math.nan]], "SOLVER.CLASS_WEIGHTS: nan must be a number of 0 or more"),
        (["SOLVER.CLASS_WEIGHTS", [1, 2, [3]]], r"SOLVER.CLASS_WEIGHTS: \[3\] must be a number of 0 or more"),
        (["SOLVER.CLASS_WEIGHTS", ["a", 2, 3]], "SOLVER.CLASS_WEIGHTS: .* is not a list of numbers"),
        (["SOLVER.CLASS_WEIGHT_BETA", 1], "SOLVER.CLASS_WEIGHT_BETA: 1.0 must be below 1"),
        (["SOLVER.CLASS_WEIGHT_BETA", -0.5], "SOLVER.CLASS_WEIGHT_BETA: -0.5 must be 0 or more"),
        (["SOLVER.CLASS_WEIGHT_CAP", 0.5], "SOLVER.CLASS_WEIGHT_CAP: 0.5 must be 1 or more"),
        (["SOLVER.FOCAL_GAMMA", -1], "SOLVER.FOCAL_GAMMA: -1.0 must be 0 or more"),
    ],
)
def test_what_is_wrong_about_class_weights_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(None, ["NUM_GPUS", 0, "MODEL.NUM_CLASSES", 3, *overrides])


def test_a_config_is_loaded_and_refused_without_torch():
    code = """
import sys
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.errors import UserError
load_config("k400/uniformer_s", ["NUM_GPUS", 0])
try:
    load_config("k400/uniformer_s", ["NUM_GPU", 0])
except UserError as error:
    print(error)
print(sorted({"torch", "numpy", "torchvision", "timm", "av"} & set(sys.modules)), len(sys.modules))
"""
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert "NUM_GPUS" in lines[0] and lines[1].startswith("[]") and int(lines[1].split()[1]) < 300


@pytest.mark.parametrize(
    "words, configs",
    [
        (["a.yaml"], 1),
        (["a.yaml", "B.yaml", "c.yml", "TRAIN.ENABLE", "False"], 3),
        (["k400/uniformer_s", "custom/own_videos", "NUM_GPUS", "1"], 2),
        (["config", "custom/own_videos", "TRAIN", "x"], 2),
        (["a.yaml", "MODEL.ARGS.width", "runs/c.yaml"], 1),
        (["a.yaml", "OUTPUT_DIR", "runs/a", "b.yaml", "TEST.ENABLE"], 1),
    ],
)
def test_configs_and_pairs_of_a_command_line_are_split(words, configs):
    assert split_cfg_arguments(words, ["RNG_SEED", "2"]) == (words[:configs], [*words[configs:], "RNG_SEED", "2"])
