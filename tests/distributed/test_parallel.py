"""Two ranks take the steps of one process: DDP, FSDP2, collectives, evaluation. All on the CPU with gloo."""

import json

import pytest
import torch
from conftest import ROOT, tiny_overrides
from golden_recipe import fill
from processes import pairs, run_script
from rank_checks import (
    read_in_steps,
    run_on_two_ranks,
    stale_listing,
    take_steps,
    tensors_read,
    train_and_test,
    use_collectives,
)
from tiny_models import PTV, V2

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine.test import test as evaluate_test_split
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.runs import checkpoints
from slowfast_uniformer.weights.convert import convert

CHECKPOINTED = ["MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", "[1,1,1,1]"]
FSDP = ["MODEL.PARALLEL", "fsdp"]
ON_DEVICE = ["AUG.ENABLE", True, "AUG.DEVICE", "device"]
WEIGHTED = ["SOLVER.CLASS_WEIGHTS", [8, 1, 0, 2, 5, 1, 1, 3], "SOLVER.FOCAL_GAMMA", 1.0, "UNIFORMER.DROP_DEPTH_RATE", 0]
EMA = ["MODEL.EMA_EPOCH", 0]
SGD = ["SOLVER.OPTIMIZING_METHOD", "sgd", "SOLVER.BASE_LR", 0.1, "UNIFORMER.DROP_DEPTH_RATE", 0]
READ_IN_STEPS = {
    "ddp": EMA,
    "ddp_sgd": ["SOLVER.OPTIMIZING_METHOD", "sgd", "TRAIN.MIXED_PRECISION", "bf16"],
    "ddp_fp16": ["TRAIN.MIXED_PRECISION", "fp16"],
    "fsdp": [*FSDP, *EMA],
    "fsdp_fp16": [*FSDP, "TRAIN.MIXED_PRECISION", "fp16"],
}
EVALUATED = ["MODEL.EMA_EPOCH", 1, "TRAIN.MIXED_PRECISION", "bf16", "TEST.TEST_BEST", True]


class Checks:
    """Collects checks for a pair of ranks, and their options."""

    def __init__(self, demo, folder):
        self.demo, self.folder, self.checks = demo, folder, {}

    def options(self, name: str, *overrides) -> list:
        return [*tiny_overrides(self.demo, self.folder / name), *overrides]

    def steps(self, name: str, options: list, *counts: int) -> list:
        options = self.options(name, *options)
        self.checks[name] = (take_steps, options, *counts)
        return options

    def run(self) -> dict:
        return run_on_two_ranks(self.folder / "results", self.checks)


def add_sharded_sequence(checks: Checks, model: str, options: list, count: int) -> None:
    """2 x `count` steps under DDP and FSDP; `count` more steps of either's checkpoint in the middle under the other."""
    options = [*options, "UNIFORMER.DROP_DEPTH_RATE", 0, "TRAIN.ACCUM_STEPS", 2, "MODEL.EMA_EPOCH", 0]
    options += ["SOLVER.OPTIMIZING_METHOD", "adamw", "SOLVER.BASE_LR", 1e-3]
    checks.steps(f"{model}_ddp", options, count, count)
    checks.steps(f"{model}_fsdp", [*options, *FSDP], count, count)
    for kind, other in (("fsdp", []), ("ddp", FSDP)):
        source = checks.folder / f"{model}_{kind}_after_{count}"
        checks.steps(f"{model}_from_{kind}", [*options, *other, "OUTPUT_DIR", str(source)], count)


def assert_sharded_sequence(found: dict, checks: Checks, model: str, count: int) -> None:
    sequence = {kind: found[f"{model}_{kind}"][0] for kind in ("ddp", "fsdp", "from_ddp", "from_fsdp")}
    assert "warn" not in sequence["fsdp"][1].lower(), sequence["fsdp"][1]
    losses = {kind: result["losses"] for kind, (result, _) in sequence.items()}
    torch.testing.assert_close(losses["fsdp"], losses["ddp"], rtol=0, atol=1e-5)
    for kind in ("from_ddp", "from_fsdp"):
        torch.testing.assert_close(losses[kind], losses["ddp"][count:], rtol=0, atol=1e-5)
    folder = checkpoints.checkpoint_path(str(checks.folder / f"{model}_ddp_after_{count}"), 0, sharded=True)
    file = checkpoints.checkpoint_path(str(checks.folder / f"{model}_exported"), 0)
    convert(folder, file)
    exported, shards = checkpoints.load_checkpoint(file), checkpoints.load_checkpoint(folder)
    assert exported["step"] == 2 * count
    for name, value in sequence["from_ddp"][0]["state"].items():
        assert torch.equal(exported["model_state"][name], value) and name in shards["model_state"]


@pytest.fixture(scope="module")
def probe_options(trained) -> list:
    (weights,) = (trained / "checkpoints").glob("*.pyth")
    probe = {"MODEL.INIT_FROM": str(weights), "MODEL.INIT_HEAD": "probe"}
    return pairs(probe, {"SOLVER.BASE_LR": 0, "SOLVER.WARMUP_START_LR": 0})


@pytest.fixture(scope="module")
def pair(demo, probe_options, tmp_path_factory):
    """The checks of UniFormer, and the results of both ranks by name."""
    checks = Checks(demo, tmp_path_factory.mktemp("pair"))
    checks.checks["collectives"] = (use_collectives,)
    checks.steps("ddp", ["UNIFORMER.DROP_DEPTH_RATE", 0, *CHECKPOINTED, "TRAIN.ACCUM_STEPS", 2], 3)
    checks.steps("weighted", [*WEIGHTED, "TRAIN.ACCUM_STEPS", 2], 3)
    add_sharded_sequence(checks, "V1", CHECKPOINTED, 3)
    for name, parallel in {"ddp": [], "fsdp": [*FSDP, *ON_DEVICE]}.items():
        checks.steps(f"sgd_{name}", [*SGD, *(FSDP if parallel else [])], 2)
        checks.steps(f"probe_{name}", [*probe_options, *parallel], 1)
        options = checks.options(f"run_{name}", *EVALUATED, *parallel)
        checks.checks[f"run_{name}"] = (train_and_test, options)
    for name, options in READ_IN_STEPS.items():
        checks.checks[f"reads_{name}"] = (read_in_steps, checks.options(f"reads_{name}", *options))
    checks.checks["stale"] = (stale_listing, checks.options("run_ddp", *EVALUATED))
    best = checkpoints.best_path(str(checks.folder / "run_fsdp"), sharded=True)
    checks.checks["read"] = (tensors_read, best)
    return checks, checks.run()


def test_collectives(pair):
    for (result, _), rank in zip(pair[1]["collectives"], range(2), strict=True):
        assert result["flags"] == [[False, False], [True, False], [False, True]], "true one call later, on all ranks"
        assert result["tensor"] == [0.0, 0.0] and result["object"] == {"rank": 0}, rank
        assert result["on_main"] == 0 and result["error"] == "refused on rank 0"
        assert result["mean"] == 0.5 and result["gathered"] == [0, 1]


@pytest.mark.parametrize("name", READ_IN_STEPS)
def test_two_ranks_read_nothing_in_a_step_and_skip_the_same(pair, name):
    for found, stderr in pair[1][f"reads_{name}"]:
        assert found == {"found": [], "updated": [True, True, False], "changed": False}, stderr


def test_two_ranks_take_the_steps_of_one_process(pair):
    checks, found = pair
    options = checks.options("alone", "UNIFORMER.DROP_DEPTH_RATE", 0, *CHECKPOINTED)
    one = take_steps(options, 3)["state"]
    two, stderr = found["ddp"][0]
    assert "warn" not in stderr.lower(), stderr
    assert_same_state(one, two["state"])


def test_two_ranks_weigh_classes_as_one_process_does(pair):
    """Each rank, and each micro-batch, has clips of other weights."""
    checks, found = pair
    one, two = take_steps(checks.options("alone_weighted", *WEIGHTED), 3), found["weighted"][0][0]
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-5, atol=1e-6)
    assert_same_state(one["state"], two["state"])


def assert_same_state(one: dict, two: dict) -> None:
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-6, msg=lambda t, n=name: f"{n}: {t}")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_begin_with_the_probe_of_one_process(pair, probe_options, parallel):
    checks, found = pair
    options = [*probe_options, *(ON_DEVICE if parallel == "fsdp" else [])]
    one = take_steps(checks.options(f"alone_{parallel}", *options), 1)["state"]
    two = found[f"probe_{parallel}"][0][0]["state"]
    torch.testing.assert_close(two["head.weight"], one["head.weight"], rtol=1e-3, atol=1e-4)
    assert one["head.weight"].abs().max() > 0.1  # not the small numbers of a new one


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_testing_on_two_ranks_gives_the_metrics_of_one_process(pair, parallel):
    """Nine videos, which two does not divide."""
    checks, found = pair
    out = checks.folder / f"run_{parallel}"
    (two, stderr), (other, _) = found[f"run_{parallel}"]
    assert two == other and "Warning" not in stderr, stderr
    clips_made_in_workers = load_config(None, checks.options(out.name, *EVALUATED, "AUG.DEVICE", "cpu"))
    one = evaluate_test_split(clips_made_in_workers)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len([row for row in rows if row["split"] == "val_epoch"]) == 2
    assert two["num_videos"] == one["num_videos"] == 9 and two["coverage"] == 100
    for name in ("top1_acc", "top5_acc", "mean_class_acc"):
        assert two[name] == one[name]


def test_rank_0_decides_which_checkpoint_is_tested_and_resumed(pair):
    (first, _), (second, _) = pair[1]["stale"]
    assert first["figures"] == second["figures"] and first["step"] == second["step"] == 4


def test_a_test_reads_of_a_sharded_checkpoint_the_weights_alone(pair):
    checks, found = pair
    whole = checkpoints.load_checkpoint(checkpoints.best_path(str(checks.folder / "run_fsdp"), sharded=True))
    kept = "ema_state" if whole["ema_state"] is not None else "model_state"
    for read, _ in found["read"]:
        assert read["keys"] == {kept}
        assert read["tensors"].keys() == whole[kept].keys()
        assert all(torch.equal(whole[kept][name], value) for name, value in read["tensors"].items())


def test_sharded_steps_are_those_of_ddp_and_either_continues_the_other(pair):
    checks, found = pair
    assert_sharded_sequence(found, checks, "V1", 3)


def test_sharded_sgd_takes_the_steps_of_ddp(pair):
    losses = [pair[1][f"sgd_{name}"][0][0]["losses"] for name in ("ddp", "fsdp")]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-5)


SEQUENCES = {
    "V2": pairs(V2) + ["MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", "[1]"],
    "PTV": pairs(PTV) + CHECKPOINTED,
}


def bf16_options(checks: Checks, frozen: bool) -> list:
    """Options of UniFormerV2 with golden weights, which they write."""
    path = checks.folder / f"first_{frozen}.pth"
    options = [*pairs(V2), "UNIFORMERV2.FROZEN", frozen, "MODEL.INIT_FROM", str(path)]
    if not path.exists():
        torch.save(fill(build_model(load_config(None, checks.options("any", *options)))).state_dict(), path)
    return options


@pytest.fixture(scope="module")
def slow_pair(demo, tmp_path_factory):
    """The checks of the other families, and the results of both ranks by name."""
    checks = Checks(demo, tmp_path_factory.mktemp("slow_pair"))
    for model, options in SEQUENCES.items():
        add_sharded_sequence(checks, model, options, 5)
    for frozen in (False, True):
        checks.steps(f"bf16_{frozen}", [*bf16_options(checks, frozen), *BF16], 3)
    return checks, checks.run()


BF16 = ["TRAIN.MIXED_PRECISION", "bf16", "MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", "[3]"]


@pytest.mark.slow
@pytest.mark.parametrize("model", SEQUENCES)
def test_sharded_steps_of_other_families(slow_pair, model):
    checks, found = slow_pair
    assert_sharded_sequence(found, checks, model, 5)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_uniformerv2_in_bf16_with_activation_checkpointing(slow_pair, capfd, frozen):
    """Gradient descent without momentum: what the parameters moved by are the gradients. They must agree with those of
    fp32 as far as numbers of 8 bits do after the two dozen operations of a model."""
    checks, found = slow_pair
    options = bf16_options(checks, frozen)
    capfd.readouterr()
    one = take_steps(checks.options(f"one_{frozen}", *options, *BF16), 3)
    said = [capfd.readouterr().err, *(stderr for _, stderr in found[f"bf16_{frozen}"])]
    assert not any("warn" in text.lower() for text in said), said
    states = {1: one["state"], 2: found[f"bf16_{frozen}"][0][0]["state"]}
    reference = take_steps(checks.options(f"fp32_{frozen}", *options), 3)["state"]
    model = fill(build_model(load_config(None, checks.options("any", *options))))
    for name, first in model.named_parameters():
        expected = reference[name] - first.detach()
        assert bool(expected.any()) == first.requires_grad, name
        for ranks, state in states.items():
            moved = state[name] - first.detach()
            assert bool(moved.any()) == first.requires_grad, name
            difference = (moved - expected).norm() / expected.norm().clamp_min(1e-8)
            assert not first.requires_grad or difference < 0.1, f"{name}, {ranks} ranks: {difference}"


@pytest.mark.slow
def test_the_command_trains_and_tests_under_torchrun(tiny, tmp_path):
    """Trains sharded on two ranks, then tests on two and on one."""
    options = ["--cfg", ROOT / "tests" / "empty.yaml", *tiny, *FSDP, *EVALUATED]
    done = run_script("tools/run_net.py", *options, processes=2)
    run_script("tools/run_net.py", *options, "TRAIN.ENABLE", False)
    assert "Warning" not in done.stderr, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len([row for row in rows if row["split"] == "val_epoch"]) == 2
    two, one = [row for row in rows if row["split"] == "test_final"]
    assert two["num_videos"] == one["num_videos"] == 9 and two["coverage"] == 100
    for name in ("top1_acc", "top5_acc", "mean_class_acc"):
        assert two[name] == one[name]
