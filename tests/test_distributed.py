"""Several processes do what one does. All on the CPU with gloo, started by torchrun as a user would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import load_script
from golden_recipe import fill

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.runs import checkpoints

ROOT = Path(__file__).resolve().parents[1]


def start(script: str, *arguments, processes: int = 0) -> subprocess.CompletedProcess:
    launcher = [sys.executable]
    if processes:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(ROOT / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def steps(out: Path, options: list, processes: int = 0, count: int | str = 3) -> tuple[dict, str]:
    """Losses and state after `count` steps by ddp_steps.py, and its standard error."""
    done = start("tests/ddp_steps.py", f"{out}.pt", count, *options, "OUTPUT_DIR", out, processes=processes)
    return torch.load(f"{out}.pt"), done.stderr


def test_two_processes_take_the_steps_of_one(tiny, tmp_path):
    options = [*tiny, "UNIFORMER.DROP_DEPTH_RATE", 0, "MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", "[1,1,1,1]"]
    one, _ = steps(tmp_path / "one", options)
    two, said = steps(tmp_path / "two", [*options, "TRAIN.ACCUM_STEPS", 2], processes=2)
    assert "warn" not in said.lower(), said
    one, two = one["state"], two["state"]
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_begin_with_the_probe_of_one(tiny, trained, tmp_path, parallel):
    (weights,) = (trained / "checkpoints").glob("*.pyth")
    options = [
        *tiny,
        "MODEL.INIT_FROM",
        weights,
        "MODEL.INIT_HEAD",
        "probe",
        "SOLVER.BASE_LR",
        0,
        "SOLVER.WARMUP_START_LR",
        0,
        "MODEL.PARALLEL",
        parallel,
    ]
    one, two = (steps(tmp_path / str(processes), options, processes, count=1)[0]["state"] for processes in (0, 2))
    torch.testing.assert_close(two["head.weight"], one["head.weight"], rtol=1e-3, atol=1e-4)
    assert one["head.weight"].abs().max() > 0.1  # not the small numbers of a new one


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_testing_on_two_processes_gives_the_same_figures(tiny, demo, tmp_path, parallel):
    """Trains on two processes, then tests on one and on two: nine videos, which two does not divide."""
    options = ["--cfg", ROOT / "tests" / "empty.yaml", *tiny, "MODEL.PARALLEL", parallel]
    options += ["MODEL.EMA_EPOCH", 1, "TRAIN.MIXED_PRECISION", "bf16", "TEST.TEST_BEST", True]
    done = start("tools/run_net.py", *options, processes=2)
    start("tools/run_net.py", *options, "TRAIN.ENABLE", False)
    assert "Warning" not in done.stderr, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len([row for row in rows if row["split"] == "val_epoch"]) == 2
    two, one = [row for row in rows if row["split"] == "test_final"]
    assert two["num_videos"] == one["num_videos"] == 9 and two["coverage"] == 100
    for name in ("top1_acc", "top5_acc", "mean_class_acc"):
        assert two[name] == one[name]


V2 = {
    "MODEL.MODEL_NAME": "Uniformerv2",
    "UNIFORMERV2.BACKBONE": "vit",
    "UNIFORMERV2.WIDTH": 32,
    "UNIFORMERV2.LAYERS": 4,
    "UNIFORMERV2.HEADS": 4,
    "UNIFORMERV2.PATCH_SIZE": 8,
    "UNIFORMERV2.N_DIM": 32,
    "UNIFORMERV2.INPUT_RESOLUTION": 32,
    "UNIFORMERV2.N_HEAD": 4,
    "UNIFORMERV2.RETURN_LIST": [0, 1, 2, 3],
    "SOLVER.OPTIMIZING_METHOD": "sgd",
    "SOLVER.MOMENTUM": 0.0,
    "SOLVER.NESTEROV": False,
    "SOLVER.CLIP_GRADIENT": 0.0,
    "SOLVER.WEIGHT_DECAY": 0.0,
    "SOLVER.BASE_LR": 0.1,
}


@pytest.mark.parametrize("frozen", [False, True])
def test_uniformerv2_in_bf16_recomputed_on_one_and_two_ranks(tiny, tmp_path, frozen):
    """Plain descent: what the parameters moved by are the gradients, which must agree with those of fp32
    as far as numbers of 8 bits do after the two dozen operations of a model."""
    v2 = [item for pair in V2.items() for item in pair]
    options = [*tiny, *v2, "UNIFORMERV2.FROZEN", frozen, "MODEL.INIT_FROM", str(tmp_path / "first.pth")]
    model = fill(build_model(load_config(None, options)))
    torch.save(model.state_dict(), tmp_path / "first.pth")
    saving = ["TRAIN.MIXED_PRECISION", "bf16", "MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", "[3]"]
    runs = {"plain": steps(tmp_path / "plain", options)[0]["state"]}
    for processes in (0, 2):
        done, said = steps(tmp_path / str(processes), [*options, *saving], processes)
        assert "warn" not in said.lower(), said
        runs[processes] = done["state"]
    for name, first in model.named_parameters():
        moved = {run: state[name] - first.detach() for run, state in runs.items()}
        assert all(bool(value.any()) == first.requires_grad for value in moved.values()), name
        for run in (0, 2):
            difference = (moved[run] - moved["plain"]).norm() / moved["plain"].norm().clamp_min(1e-8)
            assert not first.requires_grad or difference < 0.1, f"{name}, {run} processes: {difference}"


ALL = {
    "V1": [],
    "V2": [item for pair in V2.items() for item in pair],
    "PTV": ["MODEL.MODEL_NAME", "PTVSlow", "MODEL.ARGS.STEM_DIM_OUT", 8, "DATA.NUM_FRAMES", 4],
}


@pytest.mark.parametrize("name", ALL)
def test_sharded_steps_are_those_of_ddp_and_either_continues_the_other(tiny, tmp_path, name):
    """20 steps under each; 10 under one and 10 more of its checkpoint under the other."""
    saving = ["MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", "[1]" if name == "V2" else "[1,1,1,1]"]
    options = [
        *tiny,
        *ALL[name],
        *saving,
        "UNIFORMER.DROP_DEPTH_RATE",
        0,
        "TRAIN.ACCUM_STEPS",
        2,
        "SOLVER.OPTIMIZING_METHOD",
        "adamw",
        "SOLVER.BASE_LR",
        1e-3,
        "MODEL.EMA_EPOCH",
        0,
    ]
    whole, _ = steps(tmp_path / "ddp", options, 2, count="10+10")
    sharded, said = steps(tmp_path / "fsdp", [*options, "MODEL.PARALLEL", "fsdp"], 2, count="10+10")
    assert "warn" not in said.lower(), said
    torch.testing.assert_close(sharded["losses"], whole["losses"], rtol=0, atol=1e-5)
    for kind, other in (("fsdp", "ddp"), ("ddp", "fsdp")):
        out = tmp_path / f"{kind}_after_10"
        after, _ = steps(out, [*options, "MODEL.PARALLEL", other], 2, count=10)
        torch.testing.assert_close(after["losses"], whole["losses"][10:], rtol=0, atol=1e-5)
    folder = checkpoints.checkpoint_path(str(tmp_path / "ddp_after_10"), 0, sharded=True)
    file = checkpoints.checkpoint_path(str(tmp_path / "exported"), 0)
    load_script("tools/convert_weights.py").convert(folder, file)
    exported, shards = checkpoints.load_checkpoint(file), checkpoints.load_checkpoint(folder)
    assert exported["step"] == 20
    for name, value in after["state"].items():
        assert torch.equal(exported["model_state"][name], value) and name in shards["model_state"]
