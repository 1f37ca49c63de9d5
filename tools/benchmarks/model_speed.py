"""How fast a model runs: forward pass, training step, memory, beside its plain build and the machine's peak.

Rivals take turns, and the least of the turns counts.
"""

import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property, partial
from typing import Any

import kernels
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import nn
from torch.profiler import ProfilerActivity, profile

from slowfast_uniformer import seeding
from slowfast_uniformer.analysis.model_cost import cost, describe
from slowfast_uniformer.distributed import topology
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.step import autocast, training_step
from slowfast_uniformer.models import layers
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.ops import implementations

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def _timed(work: Callable[[], Any], device: torch.device, clock: Clock) -> float:
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def turns(ways: dict[str, Callable[[], Any]], device: torch.device, repeats: int, clock: Clock) -> dict[str, float]:
    """The least seconds of each way, after a turn that is not counted."""
    seconds = [{name: _timed(way, device, clock) for name, way in ways.items()} for _ in range(repeats + 1)]
    return {name: min(turn[name] for turn in seconds[1:]) for name in ways}


def peak_rate(device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    """GFLOP/s (a multiply-add counts two) of a product of two large matrices."""
    size = 2048 if device.type == "cpu" else 8192
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    return 2 * size**3 / 1e9 / turns({"mm": lambda: a @ b}, device, 8, clock)["mm"]


class Subject:
    """A config's model, or its plain build, with fresh weights, and a batch of random clips for it."""

    def __init__(self, cfg: CfgNode, batch: int, plain: bool = False):
        self.cfg, self.device = cfg, topology.device(cfg)
        seeding.seed_all(cfg.RNG_SEED)
        self.model = build_model(cfg).to(self.device)
        if plain:
            implementations.use_reference(self.model)
        elif cfg.MODEL.COMPILE:
            layers.compile_blocks(self.model)
        self.plain = plain
        size = cfg.DATA.TRAIN_CROP_SIZE
        self.clips = torch.randn(batch, 3, cfg.DATA.NUM_FRAMES, size, size, device=self.device)
        self.labels = torch.randint(cfg.MODEL.NUM_CLASSES, (batch,), device=self.device)

    @cached_property
    def fused(self) -> nn.Module:
        model = self.model.fuse()
        if self.cfg.MODEL.COMPILE:
            layers.compile_blocks(model)
        return model

    @torch.inference_mode()
    def forward(self) -> None:
        """A pass in evaluation, of the fused model if it has such a form."""
        with autocast(self.cfg, self.device):
            model = self.fused if hasattr(self.model, "fuse") and not self.plain else self.model.eval()
            model(self.clips)

    def step(self) -> None:
        """Forward, loss and gradients, without the optimizer."""
        self.model.zero_grad(set_to_none=True)
        with autocast(self.cfg, self.device):
            output = self.model.train()(self.clips)
        heads = output if isinstance(output, tuple) else (output,)
        torch.stack([F.cross_entropy(head.float(), self.labels) for head in heads]).mean().backward()


def model_speed(
    cfg: CfgNode, batch: int, against_plain: bool, repeats: int, clock: str, with_kernels: bool = False
) -> dict[str, Any]:
    """Seconds, rates and memory of the config's model for `batch` clips, as plain values.

    GFLOP/s count the published model's operations, a multiply-add as two, and three times as many in a
    training step; `peak_share` is the training step's rate over the measured rate of a matrix product. Ratios
    are plain over ours. `clock` is "wall", or "cpu": seconds of this process, for one thread of a machine
    that others use, too. `with_kernels` adds what products, convolutions and attention take by themselves.
    """
    names = ("ours", "plain") if against_plain else ("ours",)
    # First, while this process has little itself.
    memory = {name: step_memory(cfg, batch, name == "plain") for name in names}
    ways = {name: Subject(cfg, batch, name == "plain") for name in names}
    device = ways["ours"].device
    dtype, kinds = next(ways["ours"].model.parameters()).dtype, ("forward", "step")
    peak = peak_rate(device, dtype, CLOCKS[clock])
    seconds = {
        kind: turns({name: getattr(way, kind) for name, way in ways.items()}, device, repeats, CLOCKS[clock])
        for kind in kinds
    }
    timed = partial(_timed, device=device, clock=CLOCKS[clock])
    bound = {
        f"{kind}_seconds": kernels.alone(getattr(ways["ours"], kind), timed, repeats + 1)
        for kind in (kinds if with_kernels else ())
    }
    peak = max(peak, peak_rate(device, dtype, CLOCKS[clock]))  # others may have had the machine at first
    facts = describe(cfg)
    gflop = 2 * batch * facts["gflops"]
    work = {"forward": gflop, "step": 3 * gflop}
    figures: dict[str, Any] = {"batch": batch, "threads": torch.get_num_threads(), "clock": clock, "peak_gflops": peak}
    for name in ways:
        figures[name] = {f"{kind}_seconds": seconds[kind][name] for kind in kinds}
        figures[name] |= {f"{kind}_gflops": work[kind] / seconds[kind][name] for kind in kinds}
        figures[name]["memory_mb"] = memory[name]
    figures["peak_share"] = figures["ours"]["step_gflops"] / peak
    if with_kernels:
        figures["kernels"] = bound | {"peak_share": work["step"] / bound["step_seconds"] / peak}
    if against_plain:
        for kind in kinds:
            figures[f"{kind}_ratio"] = seconds[kind]["plain"] / seconds[kind]["ours"]
        figures["memory_ratio"] = memory["plain"] / memory["ours"]
    stages = by_stage(ways["ours"], facts["stages"], CLOCKS[clock])
    return figures | {"stages": stages, "operations": by_operation(ways["ours"])}


def step_memory(cfg: CfgNode, batch: int, plain: bool) -> float:
    """Peak memory in MB of a training step (gradients among it, no optimizer) above what was held before it,
    taken in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_step_memory, cfg, batch, plain, torch.get_num_threads()).result()


def _step_memory(cfg: CfgNode, batch: int, plain: bool, threads: int) -> float:
    torch.set_num_threads(threads)
    subject = Subject(cfg, batch, plain)
    if subject.device.type == "cuda":
        before = torch.cuda.memory_allocated(subject.device)
        torch.cuda.reset_peak_memory_stats(subject.device)
        subject.step()
        return (torch.cuda.max_memory_allocated(subject.device) - before) / 2**20
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")  # the peak starts again at what is resident now
    before = _resident_mb("VmRSS")
    subject.step()
    return _resident_mb("VmHWM") - before


def _resident_mb(key: str) -> float:
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 2**10


def by_operation(subject: Subject, count: int = 12) -> dict[str, float]:
    """The share of a training step's time that the operations which take most of it take by themselves."""
    subject.step()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        subject.step()
    spent = Counter({event.key: event.self_cpu_time_total for event in trace.key_averages()})
    return {name: time_ / spent.total() for name, time_ in spent.most_common(count)}


def by_stage(subject: Subject, stages: list[dict[str, Any]], clock: Clock) -> dict[str, dict[str, float]]:
    """Seconds of a forward pass in training and GFLOP/s, by stage: `stages` as `describe` tells them."""
    spent, begun, handles = Counter(), {}, []
    gflops = {stage["name"]: 2 * len(subject.clips) * stage["gflops"] for stage in stages if stage["gflops"] > 0}
    for name in gflops.keys() & dict(subject.model.named_modules()).keys():
        parts = subject.model.get_submodule(name)
        for part in parts if isinstance(parts, nn.ModuleList) else [parts]:

            def before(part: nn.Module, _: Any) -> None:
                begun[part] = clock()

            def after(part: nn.Module, _: Any, output: Any, name: str = name) -> None:
                spent[name] += clock() - begun[part]

            handles += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
    subject.model.train()(subject.clips)
    spent.clear()
    subject.model(subject.clips)
    for handle in handles:
        handle.remove()
    return {
        name: {"seconds": spent[name], "gflops_per_second": gflops[name] / spent[name]}
        for name in gflops
        if spent[name]
    }


def training_speed(cfg: CfgNode, batch: int, repeats: int, clock: str) -> dict[str, float]:
    """Seconds of a whole training step of the loop on a batch that is there, beside those of forward and
    backward passes and of the optimizer alone; `overhead_percent` is what the loop adds to the three."""
    subject, run = Subject(cfg, batch), start_run(cfg, None)
    run.model.train()

    def update() -> None:
        run.optimizer.step()

    subject.model, subject.device = run.net, run.device
    ways = {"loop": lambda: training_step(run, subject.clips, subject.labels), "passes": subject.step}
    seconds = turns(ways, run.device, repeats, CLOCKS[clock])
    subject.step()
    seconds |= turns({"optimizer": update}, run.device, repeats, CLOCKS[clock])
    alone = seconds["passes"] + seconds["optimizer"]
    return {
        "batch": batch,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "clips_per_second": batch / seconds["loop"],
        "overhead_percent": 100 * (seconds["loop"] / alone - 1),
    }


def scaling(cfg: CfgNode, frames: list[int], sizes: list[int], repeats: int, clock: str, label: str) -> dict[str, Any]:
    """Seconds of a forward pass in evaluation and GFLOPs of one clip, for so many frames (of the config's
    crop) and for crops of so many pixels (of the config's frames), with the exponents of both, as plain
    values. Those of GFLOPs are what is to be expected where every operation runs equally fast.
    """
    crop = cfg.DATA.TRAIN_CROP_SIZE
    lines = {
        "frames": [(count, count, crop) for count in frames],
        "pixels": [(size, cfg.DATA.NUM_FRAMES, size) for size in sizes],
    }
    figures: dict[str, Any] = {"label": label, "threads": torch.get_num_threads(), "clock": clock}
    for name, points in lines.items():
        rows = [_point(cfg, x, *shape, repeats, CLOCKS[clock]) for x, *shape in points]
        exponents = {kind: exponent([(row["x"], row[kind]) for row in rows]) for kind in ("seconds", "gflops")}
        figures[name] = {"rows": rows, "exponents": exponents}
    return figures


def _point(cfg: CfgNode, x: int, frames: int, crop: int, repeats: int, clock: Clock) -> dict[str, float]:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TEST_CROP_SIZE = frames, crop, crop
    subject = Subject(cfg, batch=1)
    seconds = turns({"forward": subject.forward}, subject.device, repeats, clock)["forward"]
    return {"x": x, "seconds": seconds, "gflops": 2 * cost(cfg)[1]}


def exponent(points: list[tuple[float, float]]) -> float:
    """The slope of the line through (x, y) that is nearest in logarithms; nan of fewer than two points."""
    xs, ys = ([math.log(point[i]) for point in points] for i in (0, 1))
    if len(points) < 2:
        return math.nan
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def plot_scaling(path: str, all_figures: list[dict[str, Any]]) -> None:
    """Draw several results of `scaling` as a picture: measured seconds, and dashed those that the operations
    make of the first of them."""
    from matplotlib.figure import Figure

    figure = Figure((10, 4), dpi=80, layout="constrained", facecolor="white")
    for axes, name in zip(figure.subplots(1, 2), ("frames", "pixels"), strict=True):
        for number, figures in enumerate(all_figures):
            rows = figures[name]["rows"]
            x, seconds, gflops = ([row[key] for row in rows] for key in ("x", "seconds", "gflops"))
            expected = [seconds[0] * value / gflops[0] for value in gflops]
            color = f"C{number}"
            axes.loglog(x, seconds, "o-", color=color, label=figures["label"])
            axes.loglog(x, expected, "--", color=color, linewidth=1)
        axes.set_xticks(x, [str(value) for value in x])
        axes.minorticks_off()
        axes.set_xlabel({"frames": "frames", "pixels": "height and width in pixels"}[name])
        axes.set_ylabel("seconds a clip (dashed: by operations)")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)
