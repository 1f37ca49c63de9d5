"""Parameters, operations and memory of a model, from its config alone.

The model runs on fake tensors, which have a shape and no values: no weights are allocated, and the largest models need
no memory.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from slowfast_uniformer.analysis.rank_memory import StepCost, peak_memory, rank_memory
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.engine.step import autocast, compute_loss
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import build_model, require
from slowfast_uniformer.ops import implementations

_aten = torch.ops.aten
# FLOP formulas, which count two for a multiply-add. The registry lacks the fused attention of the CPU.
_FUSED = "_scaled_dot_product_flash_attention"
_PRODUCTS = flop_registry | {
    getattr(_aten, f"{_FUSED}_for_cpu{way}"): flop_registry[getattr(_aten, f"{_FUSED}{way}")]
    for way in ("", "_backward")
}
# Operations per element of norms in evaluation, as fvcore counts them
_NORMS = {_aten.native_layer_norm: 5, _aten.native_group_norm: 5, _aten.native_batch_norm: 2}
_REST = "(rest)"  # the row of what is in no stage


class _Trace(TorchDispatchMode):
    """Counts operations and living memory, by the name of the innermost module (`enter`, `leave`).

    The operations are those that fvcore counts, whose torch.jit traces cannot be taken without real tensors.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self._names = {module: name for name, module in model.named_modules()}
        self._running = [""]
        self.flops, self.activations = Counter(), Counter()
        state = (*model.parameters(), *model.buffers())
        self._living = {value.untyped_storage()._cdata: ("", 0) for value in state}
        self._bytes = self.peak = 0
        self._gradients: set[int] = set()
        self._gradient_bytes = self.peak_without_gradients = 0
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._add_gradient)

    def enter(self, module: nn.Module, *_: Any) -> None:
        self._running.append(self._names[module])

    def leave(self, *_: Any) -> None:
        self._running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, kind, owner = func(*args, **(kwargs or {})), func._overloadpacket, self._running[-1]
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if kind in _PRODUCTS:
            self.flops[owner] += _PRODUCTS[kind](*args, **(kwargs or {}), out_val=out) // 2
            self.activations[owner] += tensors[0].numel()
        elif kind in _NORMS:
            self.flops[owner] += _NORMS[kind] * tensors[0].numel()
        for storage in (tensor.untyped_storage() for tensor in tensors):
            if storage._cdata not in self._living:
                self._living[storage._cdata] = owner, storage.nbytes()
                self._bytes += storage.nbytes()
                weakref.finalize(storage, self._drop, storage._cdata)
        self.peak = max(self.peak, self._bytes)
        self.peak_without_gradients = max(self.peak_without_gradients, self._bytes - self._gradient_bytes)
        return out

    def _drop(self, key: int) -> None:
        self._bytes -= self._living.pop(key)[1]

    def _add_gradient(self, parameter: nn.Parameter) -> None:
        """Count a parameter's gradient separately, too, now that it is complete."""
        storage = parameter.grad.untyped_storage()
        if storage._cdata not in self._gradients:
            self._gradients.add(storage._cdata)
            self._gradient_bytes += storage.nbytes()

    def living(self) -> Counter:
        """Bytes of living tensors, the model's own left out, by the module that made them."""
        made = Counter()
        for owner, size in self._living.values():
            made[owner] += size
        return made


def meta_model(cfg: CfgNode) -> nn.Module:
    """A config's model on the meta device, without weights."""
    with torch.device("meta"):
        return build_model(cfg)


def step_cost(cfg: CfgNode, checkpointed: int | None = None) -> StepCost:
    """The cost of a training step of a config's model on one rank.

    Args:
        cfg: the config; the step is of the largest micro-batch of DATA.TRAIN_CROP_SIZE clips.
        checkpointed: blocks of each stage with activation checkpointing, the first ones; None for
            MODEL.CHECKPOINT_NUM.

    Raises:
        UserError: for an unknown model or a clip size that the model does not take.
    """
    model = meta_model(cfg)
    if checkpointed is not None:
        require(model, "set_grad_checkpointing", "MODEL.USE_CHECKPOINT")
        model.set_grad_checkpointing(checkpointed)
    return _train(model, cfg, cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE)


def clips_at_once(cfg: CfgNode) -> int:
    """Clips in the largest of the ACCUM_STEPS micro-batches of a rank."""
    return -(-topology.planned(cfg).clips_per_rank(cfg) // cfg.TRAIN.ACCUM_STEPS)


def describe(cfg: CfgNode, frames: int | None = None, crop: int | None = None, depth: int = 1) -> dict[str, Any]:
    """Parameters, operations and memory of the model that a config names, in total and by stage, as plain values.

    Memory is an estimate: workspaces inside single operations and the allocator's slack are not in it.

    Args:
        cfg: the config.
        frames: frames of a clip; None for DATA.NUM_FRAMES.
        crop: height and width of a clip in pixels; None for DATA.TRAIN_CROP_SIZE.
        depth: levels of modules that get rows of their own; 1 is the stages.

    Returns:
        Of one clip in evaluation `gflops` (a multiply-add counts once) and `activations` (elements that convolutions
        and matrix products put out). In bytes `saved`, by the forward pass for the backward pass, and `memory`, of a
        training step on one rank and of one clip in evaluation.

    Raises:
        UserError: for an unknown model or a clip size that the model does not take.
    """
    frames, crop = frames or cfg.DATA.NUM_FRAMES, crop or cfg.DATA.TRAIN_CROP_SIZE
    model, evaluation = meta_model(cfg), _evaluate(meta_model(cfg), cfg, frames, crop)
    step = _train(model, cfg, frames, crop)
    named = dict(model.named_parameters())
    figures = {
        "flops": evaluation.flops,
        "activations": evaluation.activations,
        "params": Counter({name: p.numel() for name, p in named.items()}),
        "trainable": Counter({name: p.numel() * p.requires_grad for name, p in named.items()}),
        "saved": step.saved,
    }
    stages = _by_stage(figures, _stages(model, depth))
    total = {key: sum(counts.values()) for key, counts in figures.items()}
    held = rank_memory(cfg, model, cfg.MODEL.PARALLEL)
    weights = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    return {
        "model": cfg.MODEL.MODEL_NAME,
        "frames": frames,
        "crop": crop,
        **_in_giga(total),
        "frozen": total["params"] - total["trainable"],
        "memory": {
            "batch": clips_at_once(cfg),
            "weights": held["parameters"],
            "optimizer": held["optimizer"],
            "ema": held["moving_average"],
            "ddp_buckets": held["buckets"],
            "train_peak": peak_memory(held, step, cfg.MODEL.PARALLEL),
            "eval_peak": weights + evaluation.peak,
        },
        "stages": [{"name": name, **_in_giga(row)} for name, row in stages.items()],
    }


def cost(cfg: CfgNode, frames: int | None = None, crop: int | None = None) -> tuple[int, float]:
    """Parameters, and GFLOPs of one clip in evaluation (a multiply-add counts once).

    Counted as published figures are, and as `describe` does more slowly.

    Args:
        cfg: the config.
        frames: frames of a clip; None for DATA.NUM_FRAMES.
        crop: height and width of a clip in pixels; None for DATA.TEST_CROP_SIZE.
    """
    model = meta_model(cfg)
    trace = _evaluate(model, cfg, frames or cfg.DATA.NUM_FRAMES, crop or cfg.DATA.TEST_CROP_SIZE)
    return sum(p.numel() for p in model.parameters()), sum(trace.flops.values()) / 1e9


def _in_giga(row: dict[str, int]) -> dict[str, Any]:
    return {"gflops": row["flops"] / 1e9, **{key: count for key, count in row.items() if key != "flops"}}


def _evaluate(model: nn.Module, cfg: CfgNode, frames: int, crop: int) -> _Trace:
    """The forward pass of one clip in evaluation, with the reference implementations.

    Published figures count their operations.
    """
    model = implementations.use_reference(model)
    shape = (1, 3, frames, crop, crop)
    with _traced(model, cfg, shape) as trace, torch.no_grad(), autocast(cfg, torch.device("cpu")):
        model.eval()(torch.empty(shape))
    return trace


@contextmanager
def _traced(model: nn.Module, cfg: CfgNode, shape: tuple[int, ...]) -> Iterator[_Trace]:
    """Trace what is done inside with a model on fake tensors; UserError if it does not take clips of this shape."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        trace = _Trace(model.to_empty(device="cpu"))
        before = register_module_forward_pre_hook(trace.enter)
        try:
            with before, register_module_forward_hook(trace.leave, always_call=True), trace:
                yield trace
        except RuntimeError as error:
            raise UserError(
                f"{cfg.MODEL.MODEL_NAME}: a clip of {shape[2]} frames of {shape[3]} x {shape[4]} does not go "
                f"through it ({str(error).splitlines()[0]}); see DATA.NUM_FRAMES and DATA.TRAIN_CROP_SIZE"
            ) from None


def _train(model: nn.Module, cfg: CfgNode, frames: int, crop: int) -> StepCost:
    """Forward and backward passes of two micro-batches at most.

    The second holds the gradients of the first beside its own activations; the others are like it.
    """
    shape = (clips_at_once(cfg), 3, frames, crop, crop)
    saved, multi_label, micro_batches = Counter(), cfg.DATA.MULTI_LABEL, min(cfg.TRAIN.ACCUM_STEPS, 2)
    with _traced(model, cfg, shape) as trace:
        clips = torch.empty(shape)  # a training loop holds them during the step
        for _ in range(micro_batches):
            with autocast(cfg, torch.device("cpu")):
                output = model.train()(clips)
            saved = saved or trace.living()
            labels = torch.zeros(shape[0], dtype=torch.int64)
            targets = torch.zeros(shape[0], cfg.MODEL.NUM_CLASSES) if multi_label else labels
            compute_loss(output, targets, multi_label).backward()
    copies = sum(buffer.nbytes for buffer in model.buffers())  # a step restores buffers where its loss is not finite
    flops = sum(trace.flops.values()) // micro_batches
    return StepCost(saved, trace.peak + copies, trace.peak_without_gradients + copies, flops)


def _stages(model: nn.Module, depth: int) -> list[str]:
    """Names of the modules that get a row: the model's children, and those of a child with nearly all parameters."""
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_modules()}

    def children(name: str) -> list[str]:
        found = [f"{name}.{child}".lstrip(".") for child, _ in model.get_submodule(name).named_children()]
        return found or [name]

    def is_wrapper(name: str) -> bool:
        blocks = isinstance(model.get_submodule(name), nn.ModuleList) and len(names) > 1
        return sizes[name] > 0.9 * sizes[""] and not blocks and children(name) != [name]

    names = children("")
    while any(map(is_wrapper, names)):
        names = [new for name in names for new in (children(name) if is_wrapper(name) else [name])]
    for _ in range(depth - 1):
        names = [new for name in names for new in children(name)]
    return names


def _by_stage(figures: dict[str, Counter], stages: list[str]) -> dict[str, dict[str, int]]:
    """A row for each stage that has anything, and one for the rest.

    Stages come in the order of the first figures, which are those of operations in the forward pass.
    """
    rows: dict[str, dict[str, int]] = {}
    for key, counts in figures.items():
        for owner, value in counts.items():
            stage = next((name for name in stages if f"{owner}.".startswith(f"{name}.")), _REST)
            rows.setdefault(stage, dict.fromkeys(figures, 0))[key] += value
    rows[_REST] = rows.pop(_REST, {})
    return {name: row for name, row in rows.items() if any(row.values())}
