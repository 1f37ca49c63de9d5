"""The cost of a model against figures of the released models and against real tensors."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from golden_recipe import golden_cases, golden_json

from slowfast_uniformer.analysis.model_cost import cost, describe, step_cost
from slowfast_uniformer.cli.common import finish
from slowfast_uniformer.cli.info import main
from slowfast_uniformer.config.keys import get_cfg
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine.step import autocast
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import build_model

RECIPE = str(ROOT / "configs/k400/uniformer_s.yaml")
SMALL = [
    "NUM_GPUS",
    0,
    "UNIFORMER.EMBED_DIM",
    [8, 8, 16, 16],
    "UNIFORMER.DEPTH",
    [1, 2, 2, 1],
    "UNIFORMER.HEAD_DIM",
    8,
    "UNIFORMER.DROP_DEPTH_RATE",
    0.0,
    "MODEL.NUM_CLASSES",
    5,
    "TRAIN.BATCH_SIZE",
    4,
    "DATA.NUM_FRAMES",
    4,
    "DATA.TRAIN_CROP_SIZE",
    32,
    "SOLVER.OPTIMIZING_METHOD",
    "adamw",
]
CHECKPOINT = ["MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", [1, 2, 2, 1]]
VIT = {
    "BACKBONE": "vit",
    "WIDTH": 32,
    "LAYERS": 8,
    "HEADS": 4,
    "N_DIM": 32,
    "N_HEAD": 4,
    "PATCH_SIZE": 8,
    "INPUT_RESOLUTION": 32,
    "RETURN_LIST": [0, 1, 2, 3],
}
V2 = ["MODEL.MODEL_NAME", "Uniformerv2", *(item for k, v in VIT.items() for item in (f"UNIFORMERV2.{k}", v))]


_described: dict[str, dict] = {}


def small(*overrides, **options) -> dict:
    """The description of a small model; the tests share them."""
    key = repr((overrides, options))
    if key not in _described:
        _described[key] = describe(load_config(None, [*SMALL, *overrides]), **options)
    return _described[key]


def config_of(case: str, config: dict) -> list:
    """The config, as KEY, VALUE, ..., of the model of a golden case."""
    section = "UNIFORMERV2" if case.startswith("uniformerv2") else "UNIFORMER"
    own = {key.lower() for key in get_cfg()[section]}
    pairs = {f"{section}.{key.upper()}": value for key, value in config.items() if key in own}
    pairs["MODEL.NUM_CLASSES"] = config["num_classes"]
    pairs["MODEL.MODEL_NAME"] = {"UNIFORMER": "Uniformer", "UNIFORMERV2": "Uniformerv2"}[section]
    if "light" in case:
        pairs["MODEL.MODEL_NAME"] = case.rpartition("_")[0].capitalize()
    return [item for pair in pairs.items() for item in pair]


DESCRIBED = ("uniformer_s", "uniformer_light_ls_fp32_xxs", "uniformerv2_b16_k_f8", "uniformerv2_b16_sth_f16")


def check_cost(case: str, sizes: slice = slice(None)) -> None:
    """Parameters and operations of a released model are the published ones at these of its sizes."""
    golden = golden_json("keys", case)
    cfg = load_config(None, [*config_of(case, golden["config"]), "NUM_GPUS", 0])
    for size in golden["flops"][sizes]:
        params, gflops = cost(cfg, size["frames"], size["size"])
        assert gflops == pytest.approx(size["gflops"], rel=1e-6), (case, size)
        assert params == golden["params"], case
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == golden["trainable_params"], case


def check_description(case: str) -> dict:
    golden = golden_json("keys", case)
    cfg = load_config(None, [*config_of(case, golden["config"]), "NUM_GPUS", 0, "TRAIN.BATCH_SIZE", 1])
    size = golden["flops"][0]
    facts = describe(cfg, frames=size["frames"], crop=size["size"])
    assert facts["gflops"] == pytest.approx(size["gflops"], rel=1e-6)
    assert facts["params"] == golden["params"] and facts["trainable"] == golden["trainable_params"]
    return facts


@pytest.mark.parametrize("case", ["uniformer_s", "uniformer_light_ls_fp32_xxs", "uniformerv2_b16_k_f8"])
def test_parameters_and_operations_of_some_released_models(case):
    check_cost(case, slice(1))


@pytest.mark.slow
@pytest.mark.parametrize("case", golden_cases("keys", "uniformer*"))
def test_parameters_and_operations_of_all_released_models(case):
    check_cost(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", DESCRIBED)
def test_description_of_some_released_models(case):
    check_description(case)


@pytest.mark.parametrize(
    "overrides",
    [[], ["MODEL.MODEL_NAME", "Uniformer_light"], [*V2, "UNIFORMERV2.LAYERS", 4]],
    ids=["uniformer", "light", "v2"],
)
def test_description_and_cost_agree(overrides):
    """They count the same; published figures are compared with both."""
    cfg = load_config(None, [*SMALL, *overrides, "TRAIN.BATCH_SIZE", 1, "DATA.TEST_CROP_SIZE", 32])
    facts = describe(cfg)
    assert (facts["params"], facts["gflops"]) == cost(cfg) and facts["trainable"] == facts["params"]


@pytest.mark.slow
def test_frozen_parameters_have_neither_gradient_nor_moments():
    facts = check_description("uniformerv2_l14_336_k_f8_frozen")
    assert facts["frozen"] == facts["params"] - facts["trainable"] > 3e8
    assert facts["memory"]["optimizer"] == 4 * facts["trainable"]  # sgd


def test_frozen_parameters_of_a_small_model():
    facts = small(*V2, "UNIFORMERV2.FROZEN", True, "SOLVER.OPTIMIZING_METHOD", "sgd")
    assert facts["frozen"] == facts["params"] - facts["trainable"] > 0
    assert facts["memory"]["optimizer"] == 4 * facts["trainable"]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_stages_add_up_to_the_total(depth):
    facts = small(depth=depth)
    for key in ("params", "trainable", "gflops", "activations", "saved"):
        assert sum(stage[key] for stage in facts["stages"]) == pytest.approx(facts[key]) and facts[key] > 0


def test_stages_stand_in_the_order_of_the_forward_pass():
    fours = [f"{part}{i}" for i in (1, 2, 3, 4) for part in ("patch_embed", "blocks")]
    assert [stage["name"] for stage in small()["stages"]] == [*fours, "norm", "head", "(rest)"]
    finer = [stage["name"] for stage in small(depth=2)["stages"]]
    assert finer[:5] == [
        "patch_embed1.proj",
        "patch_embed1.norm",
        "blocks1.0",
        "patch_embed2.proj",
        "patch_embed2.norm",
    ]


@pytest.mark.slow
def test_a_module_with_nearly_all_parameters_is_shown_by_its_children():
    names = [stage["name"] for stage in small(*V2)["stages"]]
    assert names[:3] == ["backbone.conv1", "backbone.ln_pre", "backbone.transformer.resblocks"]


def test_size_of_the_clip():
    figures = [small()["gflops"], small(frames=8)["gflops"], small(crop=64)["gflops"]]
    assert figures == sorted(set(figures))
    assert small("DATA.NUM_FRAMES", 8)["gflops"] == figures[1]
    with pytest.raises(UserError, match="4 frames of 8 x 8 does not go through"):
        small(crop=8)


@pytest.mark.parametrize(
    "overrides", [[], CHECKPOINT, ["TRAIN.MIXED_PRECISION", "bf16"]], ids=["fp32", "checkpoint", "bf16"]
)
def test_saved_bytes_are_those_of_real_tensors(overrides):
    cfg = load_config(None, [*SMALL, *overrides])
    model, clips = build_model(cfg), torch.randn(4, 3, 4, 32, 32)
    own = {value.untyped_storage()._cdata for value in (*model.parameters(), *model.buffers())}
    kept = {clips.untyped_storage()._cdata: clips.untyped_storage()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(cfg, clips.device):
        logits = model(clips)
    saved = sum(storage.nbytes() for storage in kept.values()) + logits.nbytes
    assert describe(cfg)["saved"] == pytest.approx(saved, rel=0.01)


@pytest.mark.slow
def test_options_that_save_memory():
    fp32, checkpoint, bf16 = small(), small(*CHECKPOINT), small("TRAIN.MIXED_PRECISION", "bf16")
    assert checkpoint["saved"] < 0.6 * fp32["saved"] and bf16["saved"] < 0.9 * fp32["saved"]
    assert checkpoint["memory"]["train_peak"] < fp32["memory"]["train_peak"]
    assert checkpoint["gflops"] == fp32["gflops"] == bf16["gflops"]
    halves = small("TRAIN.ACCUM_STEPS", 2)
    assert halves["memory"]["batch"] == 2 and halves["saved"] < 0.6 * fp32["saved"]


@pytest.mark.slow
def test_memory_that_is_held_all_the_time():
    fp32, sgd = small(), small("SOLVER.OPTIMIZING_METHOD", "sgd")
    weights = fp32["memory"]["weights"]
    counts = fp32["memory"]["optimizer"] - 8 * fp32["params"]  # adam's, of four bytes for each parameter
    assert weights >= 4 * fp32["params"] and 0 < counts < 0.01 * weights
    assert fp32["memory"]["ema"] == 0 and small("MODEL.EMA_EPOCH", 0)["memory"]["ema"] == weights
    assert sgd["memory"]["optimizer"] == 4 * fp32["params"]
    bare = small("SOLVER.OPTIMIZING_METHOD", "sgd", "SOLVER.MOMENTUM", 0.0)
    assert bare["memory"]["optimizer"] == 0
    shards = small("NUM_SHARDS", 2)["memory"]
    assert shards["ddp_buckets"] == 4 * fp32["params"]
    assert 0 <= shards["train_peak"] - fp32["memory"]["train_peak"] <= shards["ddp_buckets"]


def test_a_recipe_for_more_gpus_than_there_are():
    batch = ["TRAIN.BATCH_SIZE", 9600, "TEST.BATCH_SIZE", 4800, "NUM_GPUS", 4800]
    assert describe(load_config(RECIPE, [*SMALL, *batch], runs_here=False))["memory"]["batch"] == 4
    with pytest.raises(UserError, match="NUM_GPUS: 4800, but this machine has"):
        load_config(RECIPE, batch)
    with pytest.raises(UserError, match="NUM_GPUS: -1"):
        load_config(RECIPE, ["NUM_GPUS", -1], runs_here=False)


def command(*arguments) -> None:
    finish(lambda: main(["--cfg", RECIPE, *map(str, arguments)]))


def test_the_table(capsys):
    command("--frames", 8, *SMALL)
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("stage"))
    end = next(i for i, line in enumerate(lines) if line.startswith("total"))
    assert lines[start + 1].startswith("patch_embed1") and len(set(map(len, lines[start : end + 1]))) == 1
    assert "8 frames of 32 x 32" in lines[0] and "estimate" in out


@pytest.mark.slow
def test_the_command_warns_of_nothing():
    arguments = ["-m", "slowfast_uniformer", "info", "--cfg", RECIPE, *map(str, SMALL)]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout


def test_json_is_the_description(capsys):
    command("--json", *SMALL)
    assert json.loads(capsys.readouterr().out) == describe(
        load_config([RECIPE], list(map(str, SMALL)), runs_here=False)
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(["MODEL.NUM_CLASS", "3"], "unknown key MODEL.NUM_CLASS"), (["x.yaml"], "x.yaml: no such config file")],
)
def test_errors_are_one_line(capsys, wrong, message):
    with pytest.raises(SystemExit) as stop:
        command(*wrong)
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ") and message in err


def test_each_checkpoint_policy_saves_less_than_the_one_before():
    saved = []
    for count, policy in ((0, "full"), (100, "selective"), (100, "full")):
        options = ["MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", [count] * 4]
        cfg = load_config(None, [*SMALL, *options, "MODEL.CHECKPOINT_POLICY", policy])
        saved.append(sum(step_cost(cfg).saved.values()))
    nothing, selective, full = saved
    assert full < selective < nothing
