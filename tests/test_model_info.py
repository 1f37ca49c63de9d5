"""What a model costs, against figures of the released models and against real tensors."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, load_script
from golden_recipe import golden_cases, golden_json

from slowfast_uniformer.analysis.model_cost import cost, describe, step_cost
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


def small(*overrides, **options) -> dict:
    return describe(load_config(None, [*SMALL, *overrides]), **options)


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


QUICK = ("uniformer_s", "uniformer_light_ls_fp32_xxs", "uniformerv2_b16_k_f8", "uniformerv2_b16_sth_f16")


def check(case: str) -> dict:
    golden = golden_json("keys", case)
    cfg = load_config(None, [*config_of(case, golden["config"]), "NUM_GPUS", 0, "TRAIN.BATCH_SIZE", 1])
    size = golden["flops"][0]
    facts = describe(cfg, frames=size["frames"], crop=size["size"])
    assert facts["gflops"] == pytest.approx(size["gflops"], rel=1e-6)
    assert facts["params"] == golden["params"] and facts["trainable"] == golden["trainable_params"]
    return facts


@pytest.mark.parametrize("case", QUICK)
def test_parameters_and_operations_of_some_released_models(case):
    check(case)


@pytest.mark.slow  # all sizes of all models: a minute
def test_parameters_and_operations_of_all_released_models():
    for case in golden_cases("keys", "uniformer*"):
        golden = golden_json("keys", case)
        options = [*config_of(case, golden["config"]), "NUM_GPUS", 0]
        for size in golden["flops"]:
            sizes = ["DATA.NUM_FRAMES", size["frames"], "DATA.TEST_CROP_SIZE", size["size"]]
            params, gflops = cost(load_config(None, [*options, *sizes]))
            assert gflops == pytest.approx(size["gflops"], rel=1e-6), (case, size)
            assert params == golden["params"], case
        with torch.device("meta"):
            model = build_model(load_config(None, options))
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert trainable == golden["trainable_params"], case


def test_frozen_parameters_have_neither_gradient_nor_moments():
    facts = check("uniformerv2_l14_336_k_f8_frozen")
    assert facts["frozen"] == facts["params"] - facts["trainable"] > 3e8
    assert facts["memory"]["optimizer"] == 4 * facts["trainable"]  # sgd


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


def test_a_module_that_holds_everything_is_shown_by_its_children():
    vit = {
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
    pairs = [item for key, value in vit.items() for item in (f"UNIFORMERV2.{key}", value)]
    names = [stage["name"] for stage in small("MODEL.MODEL_NAME", "Uniformerv2", *pairs)["stages"]]
    assert names[:3] == ["backbone.conv1", "backbone.ln_pre", "backbone.transformer.resblocks"]


def test_size_of_the_clip():
    figures = [small()["gflops"], small(frames=8)["gflops"], small(crop=64)["gflops"]]
    assert figures == sorted(set(figures))
    assert small("DATA.NUM_FRAMES", 8)["gflops"] == figures[1]
    with pytest.raises(UserError, match="4 frames of 8 x 8 does not go through"):
        small(crop=8)


@pytest.mark.parametrize(
    "overrides", [[], CHECKPOINT, ["TRAIN.MIXED_PRECISION", "bf16"]], ids=["plain", "checkpoint", "bf16"]
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


def test_what_saves_memory_is_estimated_to_save_it():
    plain, checkpoint, bf16 = small(), small(*CHECKPOINT), small("TRAIN.MIXED_PRECISION", "bf16")
    assert checkpoint["saved"] < 0.6 * plain["saved"] and bf16["saved"] < 0.9 * plain["saved"]
    assert checkpoint["memory"]["train_peak"] < plain["memory"]["train_peak"]
    assert checkpoint["gflops"] == plain["gflops"] == bf16["gflops"]
    halves = small("TRAIN.ACCUM_STEPS", 2)
    assert halves["memory"]["batch"] == 2 and halves["saved"] < 0.6 * plain["saved"]


def test_what_a_run_holds_all_the_time():
    plain, sgd = small(), small("SOLVER.OPTIMIZING_METHOD", "sgd")
    weights = plain["memory"]["weights"]
    counts = plain["memory"]["optimizer"] - 8 * plain["params"]  # adam's, of four bytes for each parameter
    assert weights >= 4 * plain["params"] and 0 < counts < 0.01 * weights
    assert plain["memory"]["ema"] == 0 and small("MODEL.EMA_EPOCH", 0)["memory"]["ema"] == weights
    assert sgd["memory"]["optimizer"] == 4 * plain["params"]
    bare = small("SOLVER.OPTIMIZING_METHOD", "sgd", "SOLVER.MOMENTUM", 0.0)
    assert bare["memory"]["optimizer"] == 0
    shards = small("NUM_SHARDS", 2)["memory"]
    assert shards["ddp_buckets"] == 4 * plain["params"]
    assert 0 <= shards["train_peak"] - plain["memory"]["train_peak"] <= shards["ddp_buckets"]


def test_a_recipe_for_more_gpus_than_there_are():
    facts = describe(
        load_config(RECIPE, ["TRAIN.BATCH_SIZE", 9600, "TEST.BATCH_SIZE", 4800, "NUM_GPUS", 4800], runs_here=False)
    )
    assert facts["memory"]["batch"] == 4
    with pytest.raises(UserError, match="NUM_GPUS: 4800, but this machine has"):
        load_config(RECIPE, ["TRAIN.BATCH_SIZE", 9600, "NUM_GPUS", 4800])
    with pytest.raises(UserError, match="NUM_GPUS: -1"):
        load_config(RECIPE, ["NUM_GPUS", -1], runs_here=False)


def command(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["model_info.py", "--cfg", RECIPE, *map(str, arguments)])
    script = load_script("tools/model_info.py")
    script.finish(script.main)


def test_the_table():
    arguments = ["--cfg", RECIPE, "--frames", "8", *map(str, SMALL)]
    done = subprocess.run([sys.executable, "tools/model_info.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("stage"))
    end = next(i for i, line in enumerate(lines) if line.startswith("total"))
    assert lines[start + 1].startswith("patch_embed1") and len(set(map(len, lines[start : end + 1]))) == 1
    assert "8 frames of 32 x 32" in lines[0] and "estimate" in done.stdout


def test_json_holds_what_describe_returns(monkeypatch, capsys):
    command(monkeypatch, "--json", *SMALL)
    assert json.loads(capsys.readouterr().out) == describe(
        load_config([RECIPE], list(map(str, SMALL)), runs_here=False)
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(["MODEL.NUM_CLASS", "3"], "unknown key MODEL.NUM_CLASS"), (["x.yaml"], "x.yaml: no such config file")],
)
def test_errors_are_one_line(monkeypatch, capsys, wrong, message):
    with pytest.raises(SystemExit) as stop:
        command(monkeypatch, *wrong)
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ") and message in err


def test_each_checkpoint_policy_keeps_less_than_the_one_before():
    saved = []
    for count, policy in ((0, "full"), (100, "selective"), (100, "full")):
        options = ["MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", [count] * 4]
        cfg = load_config(None, [*SMALL, *options, "MODEL.CHECKPOINT_POLICY", policy])
        saved.append(sum(step_cost(cfg).saved.values()))
    nothing, selective, full = saved
    assert full < selective < nothing
