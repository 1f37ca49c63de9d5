"""What a model costs: parameters, operations and memory, from its config alone.

The model runs on fake tensors, which have a shape and no values, so that no weights are allocated and the
largest models need no memory.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from slowfast_uniformer.engine.step import autocast
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.ops import implementations

_aten = torch.ops.aten
# Formulas that count two for a multiply-add. Attention fused for the CPU is missing in the registry.
_FUSED = "_scaled_dot_product_flash_attention"
_PRODUCTS = flop_registry | {
    getattr(_aten, f"{_FUSED}_for_cpu{way}"): flop_registry[getattr(_aten, f"{_FUSED}{way}")]
    for way in ("", "_backward")
}
# Operations for each element, as fvcore counts norms in evaluation.
_NORMS = {_aten.native_layer_norm: 5, _aten.native_group_norm: 5, _aten.native_batch_norm: 2}
# Numbers that an optimizer keeps for each element, and for each parameter (adam's count of steps)
_MOMENTS = {"sgd": (1, 0), "adam": (2, 1), "adamw": (2, 1)}
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
        self._gradients: set[int] = set()
        self._gradient_bytes = self.peak_without_gradients = 0

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
        others = self._bytes - self._gradient_bytes
        self.peak_without_gradients = max(self.peak_without_gradients, others)
        return out

    def _drop(self, key: int) -> None:
        self._bytes -= self._living.pop(key)[1]

    def watch_gradient(self, parameter: nn.Parameter) -> None:
        """From when it is complete, count a parameter's gradient apart, too."""

        def note(owner: nn.Parameter) -> None:
            storage = owner.grad.untyped_storage()
            if storage._cdata not in self._gradients:
                self._gradients.add(storage._cdata)
                self._gradient_bytes += storage.nbytes()

        parameter.register_post_accumulate_grad_hook(note)

    def living(self) -> Counter:
        """Bytes that are in memory now, the model's own left out, by the module that made them."""
        made = Counter()
        for owner, size in self._living.values():
            made[owner] += size
        return made


class StepCost(NamedTuple):
    """What a training step on one device takes beside what a process holds all the time.

    In bytes: `saved` by the forward pass for the backward pass, by module, and the most that lives at once,
    with gradients and without those that are complete. `flops` counts a multiply-add once.
    """

    saved: Counter
    peak: int
    peak_without_gradients: int
    flops: int


def step_cost(cfg: CfgNode, recomputed: int | None = None) -> StepCost:
    """The cost of a training step of a config's model, the first `recomputed` blocks of every stage being
    recomputed in the backward pass (None: as MODEL.CHECKPOINT_NUM says).

    Raises UserError for an unknown model or a clip that does not go through it.
    """
    with torch.device("meta"):
        model = build_model(cfg)
    if recomputed is not None:
        model.set_grad_checkpointing(recomputed)
    with FakeTensorMode(allow_non_fake_inputs=True):
        return _train(model.to_empty(device="cpu"), cfg, cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE)


def clips_of_device(cfg: CfgNode) -> int:
    """Clips that a device works off in an optimizer step."""
    videos = cfg.TRAIN.BATCH_SIZE // max(cfg.NUM_GPUS, 1)
    return videos * (cfg.AUG.NUM_SAMPLE if cfg.AUG.ENABLE else 1)


def clips_at_once(cfg: CfgNode) -> int:
    """How many of them are in the largest of ACCUM_STEPS parts."""
    return -(-clips_of_device(cfg) // cfg.TRAIN.ACCUM_STEPS)


def describe(cfg: CfgNode, frames: int | None = None, crop: int | None = None, depth: int = 1) -> dict[str, Any]:
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
    with torch.device("meta"):
        published, model = (
            implementations.use_reference(build_model(cfg)),
            build_model(cfg),
        )  # figures count plain operations
    with FakeTensorMode(allow_non_fake_inputs=True):
        once = _evaluate(published.to_empty(device="cpu"), cfg, (1, 3, frames, crop, crop))
        model.to_empty(device="cpu")
        step = _train(model, cfg, frames, crop)
    sizes = {name: (p.numel(), p.numel() * p.requires_grad) for name, p in model.named_parameters()}
    params, trainable = (Counter({name: pair[i] for name, pair in sizes.items()}) for i in (0, 1))
    figures = {"flops": once.flops, "activations": once.activations}
    figures |= {"params": params, "trainable": trainable, "saved": step.saved}
    stages = _by_stage(figures, _stages(model, depth))
    total = {key: sum(counts.values()) for key, counts in figures.items()}
    memory = kept(cfg, model)
    in_step = step.peak_without_gradients if memory["ddp_buckets"] else step.peak  # gradients lie in buckets
    peaks = {"train_peak": sum(memory.values()) + in_step, "eval_peak": memory["weights"] + once.peak}
    return {
        "model": cfg.MODEL.MODEL_NAME,
        "frames": frames,
        "crop": crop,
        **_in_giga(total),
        "frozen": total["params"] - total["trainable"],
        "memory": {"batch": clips_at_once(cfg), **memory, **peaks},
        "stages": [{"name": name, **_in_giga(row)} for name, row in stages.items()],
    }


def cost(cfg: CfgNode) -> tuple[int, float]:
    """Parameters, and GFLOPs of one clip in evaluation, of the model a config names: as published figures
    count them, and as `describe` says more slowly."""
    with torch.device("meta"):
        model = implementations.use_reference(build_model(cfg))
    shape = (1, 3, cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE)
    with FakeTensorMode(allow_non_fake_inputs=True):
        trace = _evaluate(model.to_empty(device="cpu"), cfg, shape)
    return sum(p.numel() for p in model.parameters()), sum(trace.flops.values()) / 1e9


def _in_giga(row: dict[str, int]) -> dict[str, Any]:
    return {"gflops" if key == "flops" else key: n / 1e9 if key == "flops" else n for key, n in row.items()}


def _evaluate(model: nn.Module, cfg: CfgNode, shape: tuple[int, ...]) -> _Trace:
    trace = _Trace(model)
    with _fitting(cfg, shape), torch.no_grad(), trace.on(), autocast(cfg, torch.device("cpu")):
        model.eval()(torch.empty(shape))
    return trace


@contextmanager
def _fitting(cfg: CfgNode, shape: tuple[int, ...]) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"{cfg.MODEL.MODEL_NAME}: a clip of {shape[2]} frames of {shape[3]} x {shape[4]} does not go "
            f"through it ({str(error).splitlines()[0]}); see DATA.NUM_FRAMES and DATA.TRAIN_CROP_SIZE"
        ) from None


def _train(model: nn.Module, cfg: CfgNode, frames: int, crop: int) -> StepCost:
    """Forward and backward as in a training step (engine/train.py); of its parts the second has the gradients
    of the first to live with, and the others are like it."""
    shape = (clips_at_once(cfg), 3, frames, crop, crop)
    trace, saved = _Trace(model), Counter()
    for parameter in model.parameters():
        if parameter.requires_grad:
            trace.watch_gradient(parameter)
    parts = min(cfg.TRAIN.ACCUM_STEPS, 2)
    with _fitting(cfg, shape), trace.on():
        clips = torch.empty(shape)  # a training loop holds them during the step
        for _ in range(parts):
            with autocast(cfg, torch.device("cpu")):
                output = model.train()(clips)
            saved = saved or trace.living()
            heads = output if isinstance(output, tuple) else (output,)
            labels = torch.zeros(shape[0], dtype=torch.int64)
            torch.stack([F.cross_entropy(head.float(), labels) for head in heads]).mean().backward()
    copies = sum(buffer.nbytes for buffer in model.buffers())  # the step may have to put them back
    flops = sum(trace.flops.values()) // parts
    return StepCost(saved, trace.peak + copies, trace.peak_without_gradients + copies, flops)


def kept(cfg: CfgNode, model: nn.Module) -> dict[str, int]:
    """Bytes that a training process holds all the time."""
    weights = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    trained = [p.nbytes for p in model.parameters() if p.requires_grad]
    return {
        "weights": weights,
        "optimizer": optimizer_state(cfg, trained),
        "ema": weights if cfg.MODEL.EMA_EPOCH >= 0 else 0,
        "ddp_buckets": sum(trained) if max(cfg.NUM_GPUS, 1) * cfg.NUM_SHARDS > 1 else 0,
    }


def optimizer_state(cfg: CfgNode, trained: list[int]) -> int:
    """Bytes that the optimizer keeps for parameters of so many bytes each."""
    if cfg.SOLVER.OPTIMIZING_METHOD == "sgd" and not cfg.SOLVER.MOMENTUM:
        return 0
    each_element, each_parameter = _MOMENTS[cfg.SOLVER.OPTIMIZING_METHOD]
    return each_element * sum(trained) + 4 * each_parameter * len(trained)


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
