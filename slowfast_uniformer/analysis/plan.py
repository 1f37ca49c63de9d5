"""What a run on many machines will take, from its config alone.

Global batch and learning rate, steps, memory of a GPU, communication, decoding, checkpoints. Nothing is measured on a
GPU. Of its memory tensors are counted: CUDA itself, workspaces of convolutions and allocator fragmentation come on
top, for which `RESERVE` is kept free.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from slowfast_uniformer import paths
from slowfast_uniformer.analysis.model_cost import clips_at_once, cost, meta_model, step_cost
from slowfast_uniformer.analysis.rank_memory import StepCost, fsdp_groups, peak_memory, rank_memory
from slowfast_uniformer.config.keys import read_table
from slowfast_uniformer.config.load import variant
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.batch_size import batch_notes, steps_per_epoch
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.errors import UserError

RESERVE = 0.1  # share of a GPU's memory that is kept free
VIDEOS = read_table(Path(__file__).with_name("list_sizes.yaml"))  # of the usual train lists, by their folder's name
LAYOUTS = ("ddp", "fsdp")
# Blocks of each stage with activation checkpointing, as `step_cost` takes them; "all" is more than any stage has
CHECKPOINTED = {"none": 0, "configured": None, "all": 10**6}


def plan(
    cfg: CfgNode,
    recipe: CfgNode,
    videos: int | None = None,
    seconds: float | None = None,
    bandwidth: float = 25.0,
    gpu_memory: float | None = None,
    gpu_tflops: float | None = None,
) -> dict[str, Any]:
    """All figures of a run on NUM_SHARDS machines of NUM_GPUS GPUs each, as plain values; sizes in bytes.

    Args:
        cfg: the run's config.
        recipe: the config whose learning rate is scaled linearly for comparison.
        videos: length of the train list, where it cannot be read here.
        seconds: duration of a step; None to derive it from `gpu_tflops`, or for 1 s.
        bandwidth: GB/s that a rank sends while it receives as much.
        gpu_memory: GB of a GPU; None where unknown.
        gpu_tflops: TFLOP/s that a GPU achieves, a multiply-add counting twice; None where unknown.

    Raises:
        UserError: for an unknown model, a clip size that it does not take, or an unknown number of videos.
    """
    model, run = meta_model(cfg), topology.planned(cfg)
    steps = count_steps(cfg, *count_videos(cfg, videos))
    costs = {name: step_cost(cfg, CHECKPOINTED[name]) for name in checkpointing_choices(cfg, model)}
    traffic = communication(cfg, model, bandwidth)
    time = duration(cfg, costs, traffic, steps["total"], gpu_tflops, seconds)
    return {
        "model": cfg.MODEL.MODEL_NAME,
        "machines": run.machines,
        "gpus": run.ranks,
        "parallel": cfg.MODEL.PARALLEL,
        "recomputed": checkpointing(cfg),
        "precision": cfg.TRAIN.MIXED_PRECISION,
        "batch": {
            "videos": run.videos_per_step(cfg),
            "videos_per_gpu": run.videos_per_rank(cfg),
            "clips_at_once": clips_at_once(cfg),
        },
        "learning_rate": learning_rate(cfg, recipe),
        "steps": steps,
        "memory": memory(cfg, model, costs) | fit(cfg, model, costs, gpu_memory),
        "communication": traffic,
        "time": time,
        "decoding": decoding(cfg, time["seconds_per_step"]),
        "checkpoints": checkpoints(cfg, model),
        "notes": list(batch_notes(cfg, run, steps["videos"])),
    }


def learning_rate(cfg: CfgNode, recipe: CfgNode) -> dict[str, Any]:
    """The learning rate after warm-up, and that of the recipe scaled linearly with the global batch."""
    here, there = topology.planned(cfg), topology.planned(recipe)
    rate, videos = there.learning_rate(recipe), there.videos_per_step(recipe)
    return {
        "applied": here.learning_rate(cfg),
        "applied_by": here.describe_learning_rate(cfg),
        "linear": rate * here.videos_per_step(cfg) / videos,
        "recipe": rate,
        "recipe_videos": videos,
    }


def count_videos(cfg: CfgNode, given: int | None) -> tuple[int, str]:
    """Videos of the train list, and the source of the number: the list, `given` (--videos), or `VIDEOS`."""
    path = annotations.list_path(cfg, "train")
    if given is not None:
        return given, "--videos"
    if paths.first_file([path]):
        return len(annotations.load(cfg, "train")), path
    name = os.path.basename(os.path.normpath(cfg.DATA.PATH_TO_DATA_DIR))
    if name not in VIDEOS:
        raise UserError(
            f"{path}: there is no train list, so that its videos cannot be counted. Give --videos N, or set "
            "DATA.PATH_TO_DATA_DIR to the folder of the lists"
        )
    return VIDEOS[name], f"the usual list of {name}"


def count_steps(cfg: CfgNode, videos: int, source: str) -> dict[str, Any]:
    """Optimizer steps as data/loader.py makes them: equally many full batches on every rank."""
    per_epoch = steps_per_epoch(cfg, topology.planned(cfg), videos, f"the train list ({source})")
    return {
        "videos": videos,
        "source": source,
        "per_epoch": per_epoch,
        "epochs": cfg.SOLVER.MAX_EPOCH,
        "total": per_epoch * cfg.SOLVER.MAX_EPOCH,
    }


def checkpointing(cfg: CfgNode) -> str:
    """The config's activation checkpointing as a key of `CHECKPOINTED`."""
    return "configured" if cfg.MODEL.USE_CHECKPOINT and any(cfg.MODEL.CHECKPOINT_NUM) else "none"


def checkpointing_choices(cfg: CfgNode, model: nn.Module) -> list[str]:
    """The keys of `CHECKPOINTED` that are compared: what is configured, and what the model can do."""
    supported = ["none", "all"] if hasattr(model, "set_grad_checkpointing") else ["none"]
    return [name for name in CHECKPOINTED if name in (*supported, checkpointing(cfg))]


def memory(cfg: CfgNode, model: nn.Module, costs: dict[str, StepCost]) -> dict[str, Any]:
    """Bytes on the fullest GPU: what is held under each layout, activations, and the peak of a step.

    The peak is less than the sum where gradients take the place of activations.
    """
    held = {layout: rank_memory(cfg, model, layout) for layout in LAYOUTS}
    return {
        "parts": held,
        "saved": {name: sum(cost.saved.values()) for name, cost in costs.items()},
        "peak": {
            layout: {name: peak_memory(held[layout], cost, layout) for name, cost in costs.items()}
            for layout in LAYOUTS
        },
    }


def fit(cfg: CfgNode, model: nn.Module, costs: dict[str, StepCost], gpu_memory: float | None) -> dict[str, Any]:
    """Whether the plan fits into `gpu_memory` GB, and the remedy if it does not; None where that is unknown."""
    layout = cfg.MODEL.PARALLEL
    needed = peak_memory(rank_memory(cfg, model, layout), costs[checkpointing(cfg)], layout)
    usable = None if gpu_memory is None else int((1 - RESERVE) * gpu_memory * 1e9)
    fits = None if usable is None else needed <= usable
    remedy = _remedy(cfg, model, costs, usable) if fits is False else None
    return {"plan": needed, "usable": usable, "fits": fits, "remedy": remedy}


def _remedy(cfg: CfgNode, model: nn.Module, costs: dict[str, StepCost], usable: int) -> dict[str, Any] | None:
    """The keys of the first remedy that fits and the peak with them, or None. The smallest changes come first."""
    layout, blocks = cfg.MODEL.PARALLEL, checkpointing(cfg)
    most = "all" if "all" in costs else blocks
    ways = [  # (layout, blocks with activation checkpointing, whether ACCUM_STEPS may rise)
        (layout, most, False),
        (layout, blocks, True),
        ("fsdp", blocks, False),
        (layout, most, True),
        ("fsdp", most, False),
        ("fsdp", most, True),
    ]
    for new_layout, new_blocks, accumulate in ways:
        if new_layout == "fsdp" and topology.planned(cfg).ranks == 1:
            continue
        for accum_steps, peak in _peaks(cfg, model, costs, new_layout, new_blocks, usable if accumulate else 0):
            if peak <= usable:
                keys: dict[str, Any] = {}
                if new_blocks != blocks:
                    keys |= {"MODEL.USE_CHECKPOINT": True, "MODEL.CHECKPOINT_NUM": "every block of each stage"}
                if accum_steps != cfg.TRAIN.ACCUM_STEPS:
                    keys["TRAIN.ACCUM_STEPS"] = accum_steps
                if new_layout != layout:
                    keys["MODEL.PARALLEL"] = new_layout
                return {"keys": keys, "peak": peak}
    return None


def _peaks(
    cfg: CfgNode, model: nn.Module, costs: dict[str, StepCost], layout: str, blocks: str, most_held: int
) -> Iterator[tuple[int, int]]:
    """ACCUM_STEPS and the peak with them: the config's, then doubled until a clip at a time or `most_held` bytes."""
    held = rank_memory(cfg, model, layout)
    yield cfg.TRAIN.ACCUM_STEPS, peak_memory(held, costs[blocks], layout)
    while clips_at_once(cfg) > 1 and sum(held.values()) < most_held:
        cfg = variant(cfg, ["TRAIN.ACCUM_STEPS", 2 * cfg.TRAIN.ACCUM_STEPS])
        held = rank_memory(cfg, model, layout)
        yield cfg.TRAIN.ACCUM_STEPS, peak_memory(held, step_cost(cfg, CHECKPOINTED[blocks]), layout)


def communication(cfg: CfgNode, model: nn.Module, bandwidth: float) -> dict[str, dict[str, float]]:
    """Bytes that a rank sends in an optimizer step under each layout, and seconds at `bandwidth` GB/s.

    DDP: a ring all-reduce of the gradients in the last micro-batch. FSDP: every micro-batch all-gathers the blocks'
    parameters for both passes and the root's once; the last one reduce-scatters the gradients. Statistics of batch
    norms, which DDP also sends, are left out.
    """
    ranks = topology.planned(cfg).ranks
    share = (ranks - 1) / ranks
    gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    root, blocks = fsdp_groups(model)
    gathered = (2 * sum(blocks) + root) * cfg.TRAIN.ACCUM_STEPS
    volumes = {"ddp": 2 * share * gradients, "fsdp": share * (gathered + gradients)}
    return {layout: {"bytes": size, "seconds": size / bandwidth / 1e9} for layout, size in volumes.items()}


def duration(
    cfg: CfgNode, costs: dict[str, StepCost], traffic: dict, steps: int, gpu_tflops: float | None, seconds: float | None
) -> dict[str, float | None]:
    """Compute of a GPU in a step, and the step's time.

    The time is `seconds` if given; else that of compute or communication, whichever is longer, as if they overlapped
    entirely; else 1 s. `without_overlap` is their sum.
    """
    clips = topology.planned(cfg).clips_per_rank(cfg)
    recomputed = costs[checkpointing(cfg)].flops - costs["none"].flops
    forward = 1e9 * cost(cfg, crop=cfg.DATA.TRAIN_CROP_SIZE)[1] * clips  # multiply-adds
    flops = 2 * (3 * forward + recomputed * clips / clips_at_once(cfg))
    compute = flops / gpu_tflops / 1e12 if gpu_tflops else None
    sending = traffic[cfg.MODEL.PARALLEL]["seconds"]
    if compute and not seconds:
        seconds = max(compute, sending)
    return {
        "flops": flops,
        "compute": compute,
        "without_overlap": compute and compute + sending,
        "given": bool(seconds),
        "seconds_per_step": seconds or 1.0,
        "hours": steps * seconds / 3600 if seconds else None,
    }


def decoding(cfg: CfgNode, seconds: float) -> dict[str, float]:
    """What a machine must read for steps of these seconds: videos (each decoded once) and the clips cut from them,
    in all and per DataLoader worker."""
    run = topology.planned(cfg)
    workers = cfg.DATA_LOADER.NUM_WORKERS * run.ranks_per_machine
    clips = run.clips_per_rank(cfg) * run.ranks_per_machine / seconds
    return {
        "videos_per_second": cfg.TRAIN.BATCH_SIZE / seconds,
        "clips_per_second": clips,
        "workers": workers,
        "clips_per_second_per_worker": clips / max(workers, 1),
    }


def checkpoints(cfg: CfgNode, model: nn.Module) -> dict[str, int]:
    """Bytes of a checkpoint (weights, optimizer, moving average), files at the end with the best one, and bytes of
    all."""
    held = rank_memory(cfg, model, "ddp")
    written = -(-cfg.SOLVER.MAX_EPOCH // cfg.TRAIN.CHECKPOINT_PERIOD)
    files = min(written, cfg.TRAIN.KEEP_CHECKPOINTS or written) + 1
    size = held["parameters"] + held["optimizer"] + held["moving_average"]
    return {"bytes": size, "files": files, "total": files * size}
