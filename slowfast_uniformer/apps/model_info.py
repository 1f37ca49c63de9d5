"""What a model costs: parameters, operations and memory, from its config alone.

The model runs on fake tensors, which have a shape and no values, so that no weights are allocated and the
largest models need no memory.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from slowfast_uniformer.engine.test import autocast
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models import build_model

_aten = torch.ops.aten
# Formulas that count two for a multiply-add. Attention fused for the CPU is missing in the registry.
_ATTENTION = flop_registry[_aten._scaled_dot_product_flash_attention]
_PRODUCTS = flop_registry | {_aten._scaled_dot_product_flash_attention_for_cpu: _ATTENTION}
# Operations for each element, as fvcore counts norms in evaluation.
_NORMS = {_aten.native_layer_norm: 5, _aten.native_group_norm: 5, _aten.native_batch_norm: 2}
_MOMENTS = {"sgd": 1, "adam": 2, "adamw": 2}  # numbers that an optimizer keeps for each parameter
_REST = "(rest)"  # the row of what is in no stage


class _Trace(TorchDispatchMode):
    """What happens inside `on()`: operations and living memory, by the name of the innermost module.

    The operations are those fvcore counts, whose torch.jit traces cannot be taken without real tensors.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self._names = {module: name for name, module in model.named_modules()}
        self._running = [""]
        self.flops, self.activations = Counter(), Counter()
        state = (*model.parameters(), *model.buffers())
        self._living = {value.untyped_storage()._cdata: ("", 0) for value in state}
        self._bytes = self.peak = 0

    @contextmanager
    def on(self) -> Iterator["_Trace"]:
        def leave(*_: Any) -> None:
            self._running.pop()

        before = register_module_forward_pre_hook(lambda m, _: self._running.append(self._names[m]))
        after = register_module_forward_hook(leave, always_call=True)
        try:
            with self:
                yield self
        finally:
            before.remove(), after.remove()

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
        return out

    def _drop(self, key: int) -> None:
        self._bytes -= self._living.pop(key)[1]

    def living(self) -> Counter:
        """Bytes that are in memory now, the model's own left out, by the module that made them."""
        made = Counter()
        for owner, size in self._living.values():
            made[owner] += size
        return made


def describe(
    cfg: CfgNode, frames: int | None = None, crop: int | None = None, depth: int = 1
) -> dict[str, Any]:
    """Parameters, operations and memory of the model a config names, in total and by stage, as plain values.

    `frames` and `crop` (pixels) are DATA.NUM_FRAMES and DATA.TRAIN_CROP_SIZE unless given; each `depth` above
    1 opens the stages once more. `gflops` (a multiply-add counts once) and `activations` (elements that
    convolutions and matrix products put out) are of one clip in evaluation. Bytes: `saved`, what a forward
    pass leaves for the backward pass, and `memory`, of a training step on one device and of one clip in
    evaluation. These are estimates: buffers inside single operations and the allocator's slack are not in
    them.

    Raises UserError for an unknown model or a clip that does not go through it.
    """
    frames, crop = frames or cfg.DATA.NUM_FRAMES, crop or cfg.DATA.TRAIN_CROP_SIZE
    batch = -(-cfg.TRAIN.BATCH_SIZE // max(cfg.NUM_GPUS, 1) // cfg.TRAIN.ACCUM_STEPS)
    batch *= cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1
    with torch.device("meta"):
        published, model = build_model(as_published(cfg)), build_model(cfg)
    with FakeTensorMode(allow_non_fake_inputs=True):
        once = _evaluate(published.to_empty(device="cpu"), cfg, (1, 3, frames, crop, crop))
        model.to_empty(device="cpu")
        saved, step_peak = _train(model, cfg, (batch, 3, frames, crop, crop))
    sizes = {name: (p.numel(), p.numel() * p.requires_grad) for name, p in model.named_parameters()}
    params, trainable = (Counter({name: pair[i] for name, pair in sizes.items()}) for i in (0, 1))
    figures = {"flops": once.flops, "activations": once.activations}
    figures |= {"params": params, "trainable": trainable, "saved": saved}
    stages = _by_stage(figures, _stages(model, depth))
    total = {key: sum(counts.values()) for key, counts in figures.items()}
    memory = _kept(cfg, model)
    peaks = {"train_peak": sum(memory.values()) + step_peak, "eval_peak": memory["weights"] + once.peak}
    return {
        "model": cfg.MODEL.MODEL_NAME,
        "frames": frames,
        "crop": crop,
        **_in_giga(total),
        "frozen": total["params"] - total["trainable"],
        "memory": {"batch": batch, **memory, **peaks},
        "stages": [{"name": name, **_in_giga(row)} for name, row in stages.items()],
    }


def cost(cfg: CfgNode) -> tuple[int, float]:
    """Parameters, and GFLOPs of one clip in evaluation, of the model a config names: as published figures
    count them, and as `describe` says more slowly."""
    with torch.device("meta"):
        model = build_model(as_published(cfg))
    shape = (1, 3, cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE)
    with FakeTensorMode(allow_non_fake_inputs=True):
        trace = _evaluate(model.to_empty(device="cpu"), cfg, shape)
    return sum(p.numel() for p in model.parameters()), sum(trace.flops.values()) / 1e9


def as_published(cfg: CfgNode) -> CfgNode:
    """The config with the arithmetic that published figures count, where this program has a shorter one."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.UNIFORMERV2.FOLD_PROJECTIONS = False
    cfg.freeze()
    return cfg


def _in_giga(row: dict[str, int]) -> dict[str, Any]:
    return {"gflops" if key == "flops" else key: n / 1e9 if key == "flops" else n for key, n in row.items()}


def _evaluate(model: nn.Module, cfg: CfgNode, shape: tuple[int, ...]) -> _Trace:
    try:
        with torch.no_grad(), _Trace(model).on() as trace, autocast(cfg, torch.device("cpu")):
            model.eval()(torch.empty(shape))
    except RuntimeError as error:
        raise UserError(
            f"{cfg.MODEL.MODEL_NAME}: a clip of {shape[2]} frames of {shape[3]} x {shape[4]} does not go "
            f"through it ({str(error).splitlines()[0]}); see DATA.NUM_FRAMES and DATA.TRAIN_CROP_SIZE"
        ) from None
    return trace


def _train(model: nn.Module, cfg: CfgNode, shape: tuple[int, ...]) -> tuple[Counter, int]:
    """What lives after the forward pass, by module, and the most that lives, gradients among it; in bytes."""
    with _Trace(model).on() as trace:
        clips = torch.empty(shape)  # a training loop holds them during the step
        with autocast(cfg, torch.device("cpu")):
            output = model.train()(clips)
        saved = trace.living()
        heads = output if isinstance(output, tuple) else (output,)
        labels = torch.zeros(shape[0], dtype=torch.int64)
        torch.stack([F.cross_entropy(head.float(), labels) for head in heads]).mean().backward()
    return saved, trace.peak


def _kept(cfg: CfgNode, model: nn.Module) -> dict[str, int]:
    """Bytes that a training process holds all the time."""
    weights = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    plain = cfg.SOLVER.OPTIMIZING_METHOD == "sgd" and not cfg.SOLVER.MOMENTUM
    return {
        "weights": weights,
        "optimizer": 0 if plain else _MOMENTS[cfg.SOLVER.OPTIMIZING_METHOD] * trained,
        "ema": weights if cfg.MODEL.EMA_EPOCH >= 0 else 0,
        "ddp_buckets": trained if max(cfg.NUM_GPUS, 1) * cfg.NUM_SHARDS > 1 else 0,
    }


def _stages(model: nn.Module, depth: int) -> list[str]:
    """Names of the modules that get a row: the children of the model, and those of a child that holds nearly
    all of it."""
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_modules()}

    def opened(name: str) -> list[str]:
        children = [f"{name}.{child}".lstrip(".") for child, _ in model.get_submodule(name).named_children()]
        return children or [name]

    def wraps(name: str) -> bool:
        blocks = isinstance(model.get_submodule(name), nn.ModuleList) and len(names) > 1
        return sizes[name] > 0.9 * sizes[""] and not blocks and opened(name) != [name]

    names = opened("")
    while any(map(wraps, names)):
        names = [new for name in names for new in (opened(name) if wraps(name) else [name])]
    for _ in range(depth - 1):
        names = [new for name in names for new in opened(name)]
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
