"""Does the device compute what the CPU computes: golden figures, a seeded training, and what wraps a model."""

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from fvcore.common.config import CfgNode
from slowfast_uniformer.datasets.make_demo import make_demo
from torch import Tensor, nn

from gpu_parts.cases import Case, Row, Skip
from slowfast_uniformer import seeding
from slowfast_uniformer.config.load import load_config, variant
from slowfast_uniformer.distributed import launch, parallel, topology
from slowfast_uniformer.engine.job import train_run
from slowfast_uniformer.engine.precision import cuda_settings
from slowfast_uniformer.engine.state import RunState
from slowfast_uniformer.engine.step import autocast, compute_loss, training_step
from slowfast_uniformer.models.layers import repeated_blocks
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.ops.implementations import set_implementations
from slowfast_uniformer.runs.files import read_json_lines

ROOT = Path(__file__).resolve().parents[3]
DEMO = str(ROOT / "configs/demo/uniformer.yaml")
EXACT = ["TRAIN.MIXED_PRECISION", "none", "TRAIN.TF32", False]
PRECISIONS = {"fp32": EXACT, "bf16": ["TRAIN.MIXED_PRECISION", "bf16"]}
IMPLEMENTATIONS = {
    "conv3d": {"layout": "contiguous", "dw_conv": "conv3d"},
    "unrolled": {"layout": "channels_last", "dw_conv": "unrolled"},
}
# Largest relative errors (2-norms) of logits and gradients. On the CPU fp32 has up to 2e-6 in both; bf16 has up to 0.02
# and 0.04, but 0.25 and 0.13 in a light model, which prunes other tokens where its scores are rounded.
LIMITS = {"fp32": (2e-5, 1e-4), "bf16": (0.06, 0.12), "bf16, pruning": (0.6, 0.4)}
FULL_SIZE = ("full_uniformer_s_16x224", "full_uniformer_light_xxs_16x128", "full_uniformerv2_b16_k_f8")
DRY_RUN = ("v1_joint", "v1_light", "v2_lmhra_double")
# Largest relative difference of losses and of the weights' changes between two ways to take the same fp32 steps. FSDP's
# are steps of AdamW, as fused SGD does not take sharded tensors. AdamW makes steps of full length of gradients that are
# zero but for rounding, as those of biases before a norm.
SAME_LOSS, SAME_CHANGE, SAME_CHANGE_ADAMW = 1e-4, 5e-3, 0.1
SAME_TRAINING = 2e-3  # losses of the demo training; other implementations on the CPU differ by 5e-7
STEPS = 4
BLOCKS = ["MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", [1, 1, 2, 1], "MODEL.CHECKPOINT_POLICY"]
WRAPPED = {"checkpointing, full": [*BLOCKS, "full"], "checkpointing, selective": [*BLOCKS, "selective"]}
WRAPPED |= {"compile": ["MODEL.COMPILE", True]}


def cases(gpus: int, folder: str) -> list[Case]:
    """The cases of this part, those first that matter most; `gpus` 0 is the dry run on the CPU."""
    golden: dict[str, list[Case]] = {name: [] for name in IMPLEMENTATIONS}
    reduced = _golden_recipe().golden_cases("forward", "v[12]_*") if gpus else DRY_RUN
    for implementation, precision in itertools.product(IMPLEMENTATIONS, PRECISIONS):
        full = FULL_SIZE if gpus and implementation == "conv3d" else ()
        for name in [*reduced, *full]:
            arguments = {"case": name, "precision": precision, "implementation": implementation, "gpus": gpus}
            golden[implementation].append(Case(f"{name}, {precision}, {implementation}", golden_case, arguments, 30.0))
    limits = dict.fromkeys([*WRAPPED, "DDP", "FSDP"], 60.0) | {"compile": 120.0 if gpus else 900.0}
    ways = {name: Case(name, same_steps, {"way": name, "gpus": gpus}, limit) for name, limit in limits.items()}
    compiling = ways.pop("compile")  # last, for it takes longest
    average = Case("EMA", moving_average, {"gpus": gpus})
    sync = Case("a step does not wait", no_waiting, {"gpus": gpus})
    training = {"gpus": gpus, "folder": folder, "videos": 96 if gpus else 24}
    others = [*ways.values(), average, sync, Case("demo training", demo_training, training, 90.0)]
    return [*golden["conv3d"], *others, *golden["unrolled"], compiling]


def _golden_recipe() -> Any:
    """tests/golden_recipe.py, whose figures and models these are."""
    if (tests := str(ROOT / "tests")) not in sys.path:
        sys.path.append(tests)
    import golden_recipe

    return golden_recipe


def demo_cfg(gpus: int, *overrides: Any) -> CfgNode:
    """The demo's model, to be trained in exact fp32 and without a checkpoint."""
    fresh = ["NUM_GPUS", gpus, "TRAIN.AUTO_RESUME", False, "TENSORBOARD.ENABLE", False]
    return load_config(DEMO, [*EXACT, *fresh, *overrides])


def has_bf16(gpus: int) -> bool:
    """Whether the device computes in bf16; the CPU of a dry run does, at any speed."""
    return not gpus or torch.cuda.is_bf16_supported(including_emulation=False)


def difference(found: Any, wanted: Any) -> float:
    """The 2-norm of the difference, relative to that of what is wanted."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def judged(errors: dict[str, tuple[float, float]]) -> Row:
    """Figures of errors, given with their limits; "failed" if one is beyond its limit, or not a number."""
    beyond = [f"{name} {error:.1e}, limit {limit:.1e}" for name, (error, limit) in errors.items() if not error <= limit]
    figures = {name: error for name, (error, _) in errors.items()}
    return figures | ({"status": "failed", "reason": "; ".join(beyond)} if beyond else {})


# ------------------------------------------------------------------------------------------------- golden figures
def golden_case(case: str, precision: str, implementation: str, gpus: int) -> Row:
    """Logits, and of reduced models loss and gradients, against the figures of the released models."""
    if precision == "bf16" and not has_bf16(gpus):
        raise Skip(f"{torch.cuda.get_device_name()} has no bf16")
    golden = _golden_recipe()
    facts = golden.golden_json("forward", case)
    cfg = demo_cfg(gpus, *PRECISIONS[precision])
    device = topology.device(cfg)
    arrays = np.load(golden.GOLDEN / "forward" / f"{case}.npz")
    model = golden.fill(golden.golden_model(case, facts["config"])).to(device)
    model, clip = (
        set_implementations(model, **IMPLEMENTATIONS[implementation]),
        golden.golden_clip(facts["input_shape"]),
    )
    pruning = precision == "bf16" and "light" in case
    of_logits, of_gradients = LIMITS["bf16, pruning" if pruning else precision]
    with cuda_settings(cfg):
        with torch.no_grad(), autocast(cfg, device):
            logits = model.eval()(clip.to(device))
        errors = {"eval_error": (difference(logits.float().cpu(), arrays["eval_logits"]), of_logits)}
        if "grads" in facts:
            outputs, gradients = _train(model, clip.to(device), facts, cfg, device)
            wanted = [arrays[key] for key in ("train_logits", "train_logits_cls") if key in arrays]
            worst = max(map(difference, outputs, wanted))
            errors["train_error"] = (worst, of_logits)
            found = [golden.summary(name, gradient) for name, gradient in gradients.items()]
            given = [facts["grads"][name] for name in gradients]
            errors["gradient_error"] = (_of_gradients(found, given), of_gradients)
    return {"precision": precision, "implementation": implementation, **judged(errors)}


def _train(
    model: nn.Module, clip: Tensor, facts: dict[str, Any], cfg: CfgNode, device: torch.device
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Logits of each head in training, and gradients by parameter, on the CPU."""
    with autocast(cfg, device):
        output = model.train()(clip)
    compute_loss(output, torch.tensor(facts["labels"], device=device), multi_label=False).backward()
    outputs = output if isinstance(output, tuple) else (output,)
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    expected = {name for name, figures in facts["grads"].items() if figures is not None}
    if gradients.keys() != expected:
        raise AssertionError(f"other parameters have a gradient: {sorted(gradients.keys() ^ expected)[:3]}")
    return [logits.detach().float().cpu() for logits in outputs], gradients


def _of_gradients(found: list[tuple], wanted: list[tuple]) -> float:
    """The larger relative error of norms and of products with drawn vectors, over all parameters."""
    (norms, _, dots), (given_norms, _, given_dots) = (np.array(figures).T for figures in (found, wanted))
    scale = np.linalg.norm(given_norms)
    return float(max(np.linalg.norm(norms - given_norms), np.linalg.norm(dots - given_dots)) / scale)


# -------------------------------------------------------------------------------------------- what wraps a model
def same_steps(way: str, gpus: int) -> Row:
    """A few training steps of the demo's model wrapped or computed in some way, against the same steps without."""
    if way == "compile" and gpus:
        require_triton()
    cfg, figures = demo_cfg(gpus, "SOLVER.OPTIMIZING_METHOD", "adamw" if way == "FSDP" else "sgd"), {}
    if way == "compile" and not gpus:  # every block takes a CPU long
        cfg = variant(cfg, ["UNIFORMER.DEPTH", [0, 0, 1, 0]])
    with cuda_settings(cfg):
        begin, losses, weights = take_steps(cfg)
        if way in WRAPPED:
            _, found_losses, found_weights = take_steps(variant(cfg, WRAPPED[way]))
        else:
            figures, found_losses, found_weights = _in_group(cfg, way)
    loss = max(difference([found], [wanted]) for found, wanted in zip(found_losses, losses, strict=True))
    change = difference(found_weights - begin, weights - begin)
    of_change = SAME_CHANGE_ADAMW if way == "FSDP" else SAME_CHANGE
    return figures | judged({"loss_error": (loss, SAME_LOSS), "change_error": (change, of_change)})


def require_triton() -> None:
    """Raise Skip where torch.compile cannot generate code for a GPU."""
    from torch.utils._triton import has_triton

    if not has_triton():
        raise Skip("torch.compile needs Triton for this GPU (pip install triton)")


def start(cfg: CfgNode, way: str = "") -> RunState:
    """A run with seeded weights; with DDP or FSDP in the present process group, of one process, too."""
    seeding.seed_all(cfg.RNG_SEED)
    net = build_model(cfg).to(topology.device(cfg))
    if way == "FSDP":
        parallel.shard_fsdp(net, repeated_blocks(net), topology.device(cfg))
    run = RunState(cfg, net, None)
    if way == "DDP":
        run.model = parallel.ddp(net, run.device, static_graph=True)
    run.model.train()
    return run


def batches(run: RunState, count: int = STEPS) -> Iterator[tuple[Tensor, Tensor]]:
    """Random clips and labels, the same every time."""
    draw, data = torch.Generator().manual_seed(0), run.cfg.DATA
    for _ in range(count):
        clips = torch.randn(4, 3, data.NUM_FRAMES, data.TRAIN_CROP_SIZE, data.TRAIN_CROP_SIZE, generator=draw)
        labels = torch.randint(run.cfg.MODEL.NUM_CLASSES, (4,), generator=draw)
        yield clips.to(run.device), labels.to(run.device)


def flat_weights(net: nn.Module) -> Tensor:
    """All parameters as one vector on the CPU, float64."""
    return torch.cat([parallel.full_tensor(p.detach()).double().flatten().cpu() for p in net.parameters()])


def take_steps(cfg: CfgNode, way: str = "") -> tuple[Tensor, list[float], Tensor]:
    """Weights before some steps, their losses, and weights after them."""
    run = start(cfg, way)
    begin = flat_weights(run.net)
    losses = [training_step(run, *batch).loss.item() for batch in batches(run)]
    return begin, losses, flat_weights(run.net)


def _in_group(cfg: CfgNode, way: str) -> tuple[Row, list[float], Tensor]:
    """`take_steps` in a process group of this process alone: the group's backend, losses and weights."""
    if cfg.NUM_GPUS and not torch.distributed.is_nccl_available():
        raise Skip("this build of PyTorch has no NCCL")
    found = []

    def work(cfg: CfgNode) -> None:
        found.append(({"backend": torch.distributed.get_backend_config()}, *take_steps(cfg, way)[1:]))

    with one_rank():
        launch.launch(work, cfg)
    return found[0]


@contextmanager
def one_rank() -> Iterator[None]:
    """Environment of the only rank that a launcher has started; the rendezvous takes a free port."""
    with patch.dict(os.environ, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}):
        with topology.restored_rank_env():
            topology.set_rank_env(0, 1, 1, 0)
            yield


def moving_average(gpus: int) -> Row:
    """The moving average after some steps, against the average of the weights after each, in float64 on the CPU."""
    cfg, expected = demo_cfg(gpus, "MODEL.EMA_EPOCH", 0, "MODEL.EMA_DECAY", 0.75), None
    with cuda_settings(cfg):
        run = start(cfg)
        for batch in batches(run):
            training_step(run, *batch)
            weights = flat_weights(run.net)
            expected = weights if expected is None else 0.75 * expected + 0.25 * weights
    return judged({"error": (difference(flat_weights(run.ema.module), expected), 1e-6)})


def no_waiting(gpus: int) -> Row:
    """Training steps during which PyTorch refuses to wait for the GPU; the first ones may."""
    precisions = [name for name in ("none", "bf16", "fp16") if name != "bf16" or has_bf16(gpus)]
    for precision in precisions:
        cfg = demo_cfg(gpus, "TRAIN.MIXED_PRECISION", precision, "MODEL.EMA_EPOCH", 0)
        with cuda_settings(cfg):
            run = start(cfg)
            given = list(batches(run))
            for batch in given[:2]:
                training_step(run, *batch)
            with refused_waiting() if gpus else nullcontext():
                for batch in given[2:]:
                    training_step(run, *batch)
    return {"precisions": precisions}


@contextmanager
def refused_waiting() -> Iterator[None]:
    """A block in which waiting for the GPU is a RuntimeError."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ------------------------------------------------------------------------------------------------------ training
def demo_training(gpus: int, folder: str, videos: int) -> Row:
    """Losses of two epochs on the demo data, seeded, against those of the CPU."""
    data = os.path.join(folder, "demo")
    make_demo(data, train=videos, val=8, seed=0)
    shared = ["DATA.PATH_TO_DATA_DIR", data, "DATA.PATH_PREFIX", os.path.join(data, "videos"), "LOG_PERIOD", 1]
    shared += ["TRAIN.EVAL_PERIOD", 0, "SOLVER.MAX_EPOCH", 2, "DATA_LOADER.NUM_WORKERS", 0]
    losses = []
    for name, count in (("on the CPU", 0), ("on the device", gpus)):
        out = os.path.join(folder, f"training {name}")
        train_run(demo_cfg(count, *shared, "OUTPUT_DIR", out))
        rows = read_json_lines(os.path.join(out, "metrics.jsonl"))
        losses.append([row["loss"] for row in rows if row["split"] == "train_iter"])
    expected, found = losses
    error = max(abs(ours - theirs) for ours, theirs in zip(found, expected, strict=True))
    return {"steps": len(found), "last_loss": found[-1]} | judged({"loss_error": (error, SAME_TRAINING)})
