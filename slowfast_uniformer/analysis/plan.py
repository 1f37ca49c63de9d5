"""What a run on many machines will take, from its config alone: batch and learning rate, steps, memory of a
GPU, communication, decoding, checkpoints. `check` holds the memory against real training steps.

Nothing is measured on a GPU, and of a GPU's memory what tensors take is counted: CUDA itself, workspaces of
convolutions and what the allocator cannot use of its blocks come on top, for which `RESERVE` is kept.
"""

import ctypes
import gc
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from slowfast_uniformer import paths
from slowfast_uniformer.analysis.model_cost import (
    StepCost,
    clips_at_once,
    clips_of_device,
    cost,
    kept,
    optimizer_state,
    step_cost,
)
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import annotations
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.step import training_step
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.ops.malloc import return_freed_memory

RESERVE = 0.1  # part of a GPU's memory that is not counted on
ALL = 10**6  # more blocks than any stage has
# Videos of train lists as datasets/prepare.py writes them, by the name of their folder; some are about so
VIDEOS = {
    "k400": 240_000,
    "k600": 390_000,
    "k700": 540_000,
    "k710": 660_000,
    "mit": 802_264,
    "sthv1": 86_017,
    "sthv2": 168_913,
    "ucf101": 9_537,
    "hmdb51": 3_570,
}
LAYOUTS = ("ddp", "fsdp")


@dataclass(frozen=True)
class Hardware:
    """GB/s that a rank sends while it receives as much; of a GPU its GB and its achieved TFLOP/s (a
    multiply-add being two), None where not said."""

    bandwidth: float = 25.0
    gpu_memory: float | None = None
    gpu_tflops: float | None = None


def plan(
    cfg: CfgNode, recipe: CfgNode, hardware: Hardware, videos: int | None = None, seconds: float | None = None
) -> dict[str, Any]:
    """All figures of a run on NUM_SHARDS machines of NUM_GPUS GPUs each, as plain values; sizes in bytes.

    `recipe` is the config whose learning rate is scaled linearly for comparison, `videos` the length of the
    train list where it cannot be read here, `seconds` how long a step takes (None: by `hardware`, or 1).

    Raises UserError for an unknown model, clip size, or number of videos.
    """
    with torch.device("meta"):
        model = build_model(cfg)
    steps = count_steps(cfg, *count_videos(cfg, videos))
    costs = {how: step_cost(cfg, blocks) for how, blocks in _recomputations(cfg, model).items()}
    traffic = communication(cfg, model, hardware.bandwidth)
    time = duration(cfg, costs, traffic, steps["total"], hardware, seconds)
    return {
        "model": cfg.MODEL.MODEL_NAME,
        "machines": cfg.NUM_SHARDS,
        "gpus": ranks(cfg),
        "parallel": layout(cfg),
        "recomputed": recomputation(cfg),
        "precision": cfg.TRAIN.MIXED_PRECISION,
        "batch": batch(cfg),
        "learning_rate": learning_rate(cfg, recipe),
        "steps": steps,
        "memory": memory(cfg, model, costs) | fit(cfg, model, costs, hardware.gpu_memory),
        "communication": traffic,
        "time": time,
        "decoding": decoding(cfg, time["seconds_per_step"]),
        "checkpoints": checkpoints(cfg, model),
    }


def ranks(cfg: CfgNode) -> int:
    """Training processes of the run."""
    return cfg.NUM_SHARDS * max(cfg.NUM_GPUS, 1)


def layout(cfg: CfgNode) -> str:
    """How the model is spread over the ranks: ddp or fsdp."""
    return cfg.MODEL.PARALLEL


def batch(cfg: CfgNode) -> dict[str, int]:
    """Videos of an optimizer step in all and on a GPU, and the clips a GPU works off at once."""
    own = cfg.TRAIN.BATCH_SIZE // max(cfg.NUM_GPUS, 1)
    return {"videos": own * ranks(cfg), "videos_per_gpu": own, "clips_at_once": clips_at_once(cfg)}


def learning_rate(cfg: CfgNode, recipe: CfgNode) -> dict[str, float]:
    """The learning rate after warm-up, and what it would be, scaled from the recipe's with the batch."""

    def applied(config: CfgNode) -> float:
        return config.SOLVER.BASE_LR * (config.NUM_SHARDS if config.SOLVER.BASE_LR_SCALE_NUM_SHARDS else 1)

    here, there = batch(cfg)["videos"], batch(recipe)["videos"]
    return {
        "applied": applied(cfg),
        "linear": applied(recipe) * here / there,
        "recipe": applied(recipe),
        "recipe_videos": there,
    }


def count_videos(cfg: CfgNode, given: int | None) -> tuple[int, str]:
    """Videos of the train list, and where the number is from: the list, what is `given`, or `VIDEOS`."""
    path = annotations.list_path(cfg, "train")
    if given is None and paths.first_file([path]):
        return len(annotations.load(cfg, "train")), path
    name = os.path.basename(os.path.normpath(paths.expand(cfg.DATA.PATH_TO_DATA_DIR)))
    if given is None and name not in VIDEOS:
        raise UserError(
            f"{path}: no train list to count, and the size of {name!r} is not known. Give --videos N, or set "
            "DATA.PATH_TO_DATA_DIR to the folder of the lists"
        )
    return (given, "--videos") if given else (VIDEOS[name], f"the usual list of {name}")


def count_steps(cfg: CfgNode, videos: int, source: str) -> dict[str, Any]:
    """Optimizer steps as data/loader.py makes them: equally many whole batches on every rank."""
    epoch = videos // ranks(cfg) // batch(cfg)["videos_per_gpu"]
    if not epoch:
        raise UserError(
            f"TRAIN.BATCH_SIZE: {videos} videos ({source}) are fewer than a batch of {batch(cfg)['videos']}"
        )
    return {
        "videos": videos,
        "source": source,
        "per_epoch": epoch,
        "epochs": cfg.SOLVER.MAX_EPOCH,
        "total": epoch * cfg.SOLVER.MAX_EPOCH,
    }


def recomputation(cfg: CfgNode) -> str:
    """Which blocks the config recomputes, in the words of `memory`."""
    counts = cfg.MODEL.CHECKPOINT_NUM
    return "configured" if cfg.MODEL.USE_CHECKPOINT and any(counts) else "none"


def _recomputations(cfg: CfgNode, model: nn.Module) -> dict[str, int | None]:
    """The rows of a memory table, with what `step_cost` takes for each."""
    if not hasattr(model, "set_grad_checkpointing"):
        return {"none": None}
    configured = {"configured": None} if recomputation(cfg) == "configured" else {}
    return {"none": 0, **configured, "all": ALL}


def memory(cfg: CfgNode, model: nn.Module, costs: dict[str, StepCost]) -> dict[str, Any]:
    """Bytes on the fullest GPU: parts that are always there under each layout, what the forward pass saves,
    and the peak of a step, which is less than the sum where gradients take the place of what was saved."""
    held = {how: _held(cfg, model, how) for how in LAYOUTS}
    return {
        "parts": held,
        "saved": {name: sum(cost.saved.values()) for name, cost in costs.items()},
        "peak": {how: {name: _peak(cfg, held[how], cost, how) for name, cost in costs.items()} for how in LAYOUTS},
    }


def _held(cfg: CfgNode, model: nn.Module, how: str) -> dict[str, int]:
    """Parameters (with buffers), gradients, optimizer, moving average, and what the layout needs besides."""
    whole = kept(cfg, model)
    gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    if how == "ddp":
        return {
            "parameters": whole["weights"],
            "gradients": gradients,
            "optimizer": whole["optimizer"],
            "moving_average": whole["ema"],
        }
    shards = {p: _shard(p, ranks(cfg)) for p in model.parameters()}
    trained = [size for p, size in shards.items() if p.requires_grad]
    parameters = sum(shards.values()) + sum(buffer.nbytes for buffer in model.buffers())
    return {
        "parameters": parameters,
        "gradients": sum(trained),
        "optimizer": optimizer_state(cfg, trained),
        "moving_average": parameters if whole["ema"] else 0,
        "gathered": _gathered(model),
    }


def _shard(parameter: nn.Parameter, count: int) -> int:
    """Bytes of a rank's rows of a parameter: FSDP2 deals out dimension 0, the first ranks having the most."""
    rows = parameter.shape[0] if parameter.ndim else 1
    return -(-rows // count) * (parameter.nbytes // max(rows, 1))


def units(model: nn.Module) -> tuple[int, list[int]]:
    """Bytes of parameters that FSDP gathers together: the root's (stem and head), and each block's."""
    named = dict(model.named_parameters())
    groups = model.layer_groups() if hasattr(model, "layer_groups") else [list(named)]
    stem, *blocks = [sum(named[name].nbytes for name in group) for group in groups]
    head = blocks.pop() if blocks else 0
    return stem + head, blocks


def _gathered(model: nn.Module) -> int:
    """Whole parameters at once: the root's, of a block and the one fetched ahead, and a block's gradients."""
    root, blocks = units(model)
    largest = sorted(blocks)[-2:] or [root]
    return root + sum(largest) + largest[-1]


def _peak(cfg: CfgNode, held: dict[str, int], cost: StepCost, how: str) -> int:
    """The most of a step. Several processes hold gradients all the time, as FSDP's parts or in DDP's buckets;
    one does when the backward pass has come to them."""
    if how == "fsdp" or ranks(cfg) > 1:
        return sum(held.values()) + cost.peak_without_gradients
    return sum(held.values()) - held["gradients"] + cost.peak


def fit(cfg: CfgNode, model: nn.Module, costs: dict[str, StepCost], gpu_memory: float | None) -> dict[str, Any]:
    """Whether the plan fits `gpu_memory` GB, and what makes it fit if it does not: the first that does of
    recomputing all blocks, smaller parts (ACCUM_STEPS), FSDP, and these together; None if nothing does."""
    peaks, now = memory(cfg, model, costs)["peak"], (layout(cfg), recomputation(cfg))
    if gpu_memory is None:
        return {"plan": peaks[now[0]][now[1]], "usable": None, "fits": None, "remedy": None}
    usable = int((1 - RESERVE) * gpu_memory * 1e9)
    needed = peaks[now[0]][now[1]]
    remedy = None if needed <= usable else _remedy(cfg, model, peaks, now, usable)
    return {"plan": needed, "usable": usable, "fits": needed <= usable, "remedy": remedy}


def _remedy(cfg: CfgNode, model: nn.Module, peaks: dict, now: tuple[str, str], usable: int) -> dict[str, Any] | None:
    how, recomputed = now
    most = "all" if "all" in peaks[how] else recomputed
    several = ranks(cfg) > 1
    # (layout, blocks recomputed, whether ACCUM_STEPS may rise): from what changes least to what changes most
    ways = [
        (how, most, False),
        (how, recomputed, True),
        ("fsdp", recomputed, False),
        (how, most, True),
        ("fsdp", most, False),
        ("fsdp", most, True),
    ]
    for parallel, blocks, parts in ways:
        if parallel == "fsdp" and not several:
            continue
        if not parts and peaks[parallel][blocks] <= usable:
            return _as_keys(cfg, parallel, blocks, cfg.TRAIN.ACCUM_STEPS, peaks[parallel][blocks], now)
        found = _smaller_parts(cfg, model, parallel, blocks, usable) if parts else None
        if found:
            return _as_keys(cfg, parallel, blocks, *found, now)
    return None


def _smaller_parts(cfg: CfgNode, model: nn.Module, parallel: str, blocks: str, usable: int) -> tuple[int, int] | None:
    """The fewest ACCUM_STEPS, doubled from the config's, that fit, with their peak; None if a clip at a time
    does not."""
    cfg, held = cfg.clone(), _held(cfg, model, parallel)
    cfg.defrost()
    while clips_at_once(cfg) > 1 and sum(held.values()) < usable:
        cfg.TRAIN.ACCUM_STEPS *= 2
        taken = step_cost(cfg, _recomputations(cfg, model)[blocks])
        peak = _peak(cfg, held, taken, parallel)
        if peak <= usable:
            return cfg.TRAIN.ACCUM_STEPS, peak
    return None


def _as_keys(cfg: CfgNode, parallel: str, blocks: str, accum: int, peak: int, now: tuple[str, str]) -> dict[str, Any]:
    """A remedy as the keys to set, and the peak under it."""
    keys: dict[str, Any] = {}
    if blocks != now[1]:
        keys |= {"MODEL.USE_CHECKPOINT": True, "MODEL.CHECKPOINT_NUM": "every block of each stage"}
    if accum != cfg.TRAIN.ACCUM_STEPS:
        keys["TRAIN.ACCUM_STEPS"] = accum
    if parallel != now[0]:
        keys["MODEL.PARALLEL"] = parallel
    return {"keys": keys, "peak": peak}


def communication(cfg: CfgNode, model: nn.Module, bandwidth: float) -> dict[str, dict[str, float]]:
    """Bytes that a rank sends in an optimizer step under each layout, and seconds at `bandwidth` GB/s.

    DDP: a ring all-reduce of the gradients, sent with the last part. FSDP: every part gathers the blocks'
    parameters for both passes and the root's once; its gradients are reduced and scattered each time. Batch
    norms' statistics, which DDP also sends, are left out.
    """
    part = (ranks(cfg) - 1) / ranks(cfg)
    gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    root, blocks = units(model)
    volumes = {"ddp": 2 * part * gradients, "fsdp": part * (2 * sum(blocks) + root + gradients) * cfg.TRAIN.ACCUM_STEPS}
    return {how: {"bytes": size, "seconds": size / bandwidth / 1e9} for how, size in volumes.items()}


def duration(
    cfg: CfgNode, costs: dict[str, StepCost], traffic: dict, steps: int, hardware: Hardware, seconds: float | None
) -> dict[str, float | None]:
    """Arithmetic of a GPU in a step, and the step's time: as given, or by arithmetic and communication where
    these overlap entirely and where they do not, or else 1 s."""
    clips = clips_of_device(cfg)
    again = costs[recomputation(cfg)].flops - costs["none"].flops
    forward = _forward_flops(cfg) * clips
    flops = 2 * (3 * forward + again * clips / clips_at_once(cfg))
    found: dict[str, float | None] = {"flops": flops, "compute": None, "without_overlap": None}
    if hardware.gpu_tflops:
        sending = traffic[layout(cfg)]["seconds"]
        found["compute"] = flops / hardware.gpu_tflops / 1e12
        found["without_overlap"] = found["compute"] + sending
        seconds = seconds or max(found["compute"], sending)
    return {
        **found,
        "given": bool(seconds),
        "seconds_per_step": seconds or 1.0,
        "hours": steps * seconds / 3600 if seconds else None,
    }


def _forward_flops(cfg: CfgNode) -> float:
    """Multiply-adds of one training clip's forward pass."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATA.TEST_CROP_SIZE = cfg.DATA.TRAIN_CROP_SIZE
    cfg.freeze()
    return 1e9 * cost(cfg)[1]


def decoding(cfg: CfgNode, seconds: float) -> dict[str, float]:
    """What a machine must read for a step of so many seconds: videos (each decoded once) and the clips cut
    from them, in all and by each loading process."""
    videos, workers = cfg.TRAIN.BATCH_SIZE / seconds, cfg.DATA_LOADER.NUM_WORKERS * max(cfg.NUM_GPUS, 1)
    clips = clips_of_device(cfg) * max(cfg.NUM_GPUS, 1) / seconds
    return {
        "videos_per_second": videos,
        "clips_per_second": clips,
        "workers": workers,
        "clips_per_second_per_worker": clips / max(workers, 1),
    }


def checkpoints(cfg: CfgNode, model: nn.Module) -> dict[str, int]:
    """Bytes of one file (weights, optimizer, moving average once it has begun), files at the end with the
    best one, and bytes of all."""
    held = kept(cfg, model)
    written = -(-cfg.SOLVER.MAX_EPOCH // cfg.TRAIN.CHECKPOINT_PERIOD)
    files = min(written, cfg.TRAIN.KEEP_CHECKPOINTS or written) + 1
    size = held["weights"] + held["optimizer"] + held["ema"]
    return {"bytes": size, "files": files, "total": files * size}


# Three small models for `check`, large enough that a process's own memory does not matter
_COMMON = [
    "NUM_GPUS",
    0,
    "SOLVER.OPTIMIZING_METHOD",
    "adamw",
    "TRAIN.BATCH_SIZE",
    4,
    "DATA.NUM_FRAMES",
    8,
    "DATA.TRAIN_CROP_SIZE",
    112,
    "MODEL.NUM_CLASSES",
    400,
]
CHECKED = {
    "UniFormer-S": ["MODEL.MODEL_NAME", "Uniformer"],
    "UniFormerV2, 8 layers of 384": [
        "MODEL.MODEL_NAME",
        "Uniformerv2",
        "UNIFORMERV2.BACKBONE",
        "vit",
        "UNIFORMERV2.WIDTH",
        384,
        "UNIFORMERV2.LAYERS",
        8,
        "UNIFORMERV2.HEADS",
        6,
        "UNIFORMERV2.INPUT_RESOLUTION",
        112,
        "UNIFORMERV2.RETURN_LIST",
        [4, 5, 6, 7],
        "UNIFORMERV2.N_DIM",
        384,
        "UNIFORMERV2.N_HEAD",
        6,
    ],
    "X3D-M": ["MODEL.MODEL_NAME", "PTVX3D"],
}
_RECOMPUTED = ["MODEL.USE_CHECKPOINT", True, "MODEL.CHECKPOINT_NUM", [ALL] * 4]


def small_configs() -> dict[str, CfgNode]:
    """The configs that are checked unless another is given: each model with and without recomputation."""
    return {
        f"{name}{', all recomputed' if extra else ''}": load_config(None, [*_COMMON, *own, *extra])
        for name, own in CHECKED.items()
        for extra in ([], _RECOMPUTED)
    }


def check(configs: dict[str, CfgNode]) -> list[dict[str, Any]]:
    """The planned peak of a step on the CPU, the measured one, and their ratio, of each config; in bytes."""
    rows = []
    for name, cfg in configs.items():
        with torch.device("meta"):
            model = build_model(cfg)
        how = recomputation(cfg)
        planned = memory(cfg, model, {how: step_cost(cfg)})["peak"]["ddp"][how]
        measured = measure(cfg)
        rows.append({"name": name, "planned": planned, "measured": measured, "ratio": planned / measured})
    return rows


def measure(cfg: CfgNode) -> int:
    """Peak resident bytes of three training steps on random clips, in a new process, above what it had before
    the model was built.

    Freed memory returns to the system at once there, so that what is measured is what is in use; by its own
    settings, or with MALLOC_MMAP_THRESHOLD_ in the environment, the C library keeps some back. Raises
    UserError where Linux's /proc or glibc is missing, or if the process is killed.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_measure_here, cfg).result()
    except BrokenProcessPool:
        raise UserError("the measuring process was killed; with a smaller batch it needs less") from None
    except (OSError, AttributeError) as error:
        raise UserError(f"memory is measured on Linux with glibc only ({error})") from None


def _measure_here(cfg: CfgNode) -> int:
    return_freed_memory(above=2**16)
    torch.set_num_threads(1)
    _steps(cfg, clips=1, count=1)  # code and tables that are loaded with first use
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is what there is now
    before = _resident("VmRSS")
    _steps(cfg, clips=clips_of_device(cfg), count=3)  # the optimizer has its state from the second on
    return _resident("VmHWM") - before


def _steps(cfg: CfgNode, clips: int, count: int) -> None:
    """Training steps of a new model on random clips."""
    run = start_run(cfg, None)
    run.model.train()
    side = cfg.DATA.TRAIN_CROP_SIZE
    x = torch.randn(clips, 3, cfg.DATA.NUM_FRAMES, side, side)
    y = torch.randint(cfg.MODEL.NUM_CLASSES, (clips,))
    for _ in range(count):
        training_step(run, x, y)


def _resident(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))
