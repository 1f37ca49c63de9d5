"""Speed and memory of a model: forward pass, training step, stages, against the reference implementations."""

import math
import multiprocessing
import statistics
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property, partial
from typing import Any

import kernels
import torch
from fvcore.common.config import CfgNode
from timing import CLOCKS, Clock, interleaved, timed
from torch import nn
from torch.profiler import ProfilerActivity, profile

from slowfast_uniformer import seeding
from slowfast_uniformer.analysis.memory_check import peak_growth
from slowfast_uniformer.analysis.model_cost import cost, describe
from slowfast_uniformer.config.load import variant
from slowfast_uniformer.distributed import parallel, topology
from slowfast_uniformer.engine.state import start_run
from slowfast_uniformer.engine.step import autocast, compute_loss, training_step
from slowfast_uniformer.models import layers
from slowfast_uniformer.models.registry import build_model
from slowfast_uniformer.ops import implementations

KINDS = ("forward", "step")


def peak_rate(device: torch.device, dtype: torch.dtype, clock: Clock, size: int = 0) -> float:
    """GFLOP/s (a multiply-add counts twice) of a product of two large matrices; `size` 0 is by device."""
    size = size or (2048 if device.type == "cpu" else 8192)
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    return 2 * size**3 / 1e9 / interleaved({"mm": lambda: a @ b}, 8, clock, device, warmups=1)["mm"]


class Subject:
    """A config's model with new weights, and a batch of random clips for it.

    With `reference` the model uses the reference implementations.
    """

    def __init__(self, cfg: CfgNode, batch: int, reference: bool = False):
        self.cfg, self.device, self.reference = cfg, topology.device(cfg), reference
        seeding.seed_all(cfg.RNG_SEED)
        model = build_model(cfg).to(self.device)
        self.model = implementations.use_reference(model) if reference else self._compiled(model)
        size, classes = cfg.DATA.TRAIN_CROP_SIZE, cfg.MODEL.NUM_CLASSES
        self.clips = torch.randn(batch, 3, cfg.DATA.NUM_FRAMES, size, size, device=self.device)
        self.labels = torch.randint(classes, (batch,), device=self.device)

    def _compiled(self, model: nn.Module) -> nn.Module:
        if self.cfg.MODEL.COMPILE:
            parallel.compile_blocks(layers.repeated_blocks(model))
        return model

    @cached_property
    def fused(self) -> nn.Module:
        """A copy of the model with fused batch norms, or the model where it cannot be fused."""
        return self._compiled(self.model.fuse()) if hasattr(self.model, "fuse") else self.model

    @torch.inference_mode()
    def forward(self) -> None:
        """A forward pass in evaluation, of the fused model except for the reference."""
        with autocast(self.cfg, self.device):
            model = self.model if self.reference else self.fused
            model.eval()(self.clips)

    def step(self) -> None:
        """Forward pass, loss and gradients, without the optimizer."""
        self.model.zero_grad(set_to_none=True)
        with autocast(self.cfg, self.device):
            output = self.model.train()(self.clips)
        compute_loss(output, self.labels, multi_label=False).backward()


def model_speed(
    cfg: CfgNode, batch: int, against_reference: bool, repeats: int, clock: str, with_kernels: bool = False
) -> dict[str, Any]:
    """Seconds, rates and memory of the config's model, as plain values.

    GFLOP/s count the operations of the reference implementations, a multiply-add as two, and three times as many in a
    training step. `peak_share` is the training step's rate over the measured rate of a matrix product. Ratios are the
    reference's over ours.

    Args:
        cfg: the config.
        batch: clips of a step.
        against_reference: whether to measure the reference implementations, too.
        repeats: of which the minimum counts.
        clock: "wall", or "cpu" for seconds of this process in one thread of a machine with other load.
        with_kernels: whether to add the time of matrix products, convolutions and attention alone.
    """
    names, tick = ("ours", "reference") if against_reference else ("ours",), CLOCKS[clock]
    # First, while this process has little memory itself
    memory = {name: step_memory(cfg, batch, name == "reference") for name in names}
    subjects = {name: Subject(cfg, batch, name == "reference") for name in names}
    ours = subjects["ours"]
    dtype = next(ours.model.parameters()).dtype
    peak = peak_rate(ours.device, dtype, tick)
    seconds = {}
    for kind in KINDS:
        calls = {name: getattr(subject, kind) for name, subject in subjects.items()}
        seconds[kind] = interleaved(calls, repeats, tick, ours.device, warmups=1)
    time_call = partial(timed, clock=tick, device=ours.device)
    bound = {kind: kernels.alone(getattr(ours, kind), time_call, repeats + 1) for kind in KINDS if with_kernels}
    peak = max(peak, peak_rate(ours.device, dtype, tick))  # the machine may have had other load at first
    facts = describe(cfg)
    gflop = {"forward": 2 * batch * facts["gflops"], "step": 6 * batch * facts["gflops"]}
    figures: dict[str, Any] = {"batch": batch, "threads": torch.get_num_threads(), "clock": clock, "peak_gflops": peak}
    for name in names:
        figures[name] = {f"{kind}_seconds": seconds[kind][name] for kind in KINDS}
        figures[name] |= {f"{kind}_gflops": gflop[kind] / seconds[kind][name] for kind in KINDS}
        figures[name]["memory_mb"] = memory[name]
    figures["peak_share"] = figures["ours"]["step_gflops"] / peak
    if with_kernels:
        figures["kernels"] = {f"{kind}_seconds": bound[kind] for kind in KINDS}
        figures["kernels"]["peak_share"] = gflop["step"] / bound["step"] / peak
    if against_reference:
        figures |= {f"{kind}_ratio": seconds[kind]["reference"] / seconds[kind]["ours"] for kind in KINDS}
        figures["memory_ratio"] = memory["reference"] / memory["ours"]
    return figures | {"stages": by_stage(ours, facts["stages"], tick), "operations": by_operation(ours)}


def step_memory(cfg: CfgNode, batch: int, reference: bool) -> float:
    """Peak memory in MB of a training step with gradients, without the optimizer, above what was held before it.

    Measured in a new process.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_step_memory, cfg, batch, reference, torch.get_num_threads()).result()


def _step_memory(cfg: CfgNode, batch: int, reference: bool, threads: int) -> float:
    torch.set_num_threads(threads)
    subject = Subject(cfg, batch, reference)
    if subject.device.type != "cuda":
        return peak_growth(subject.step) / 2**20
    before = torch.cuda.memory_allocated(subject.device)
    torch.cuda.reset_peak_memory_stats(subject.device)
    subject.step()
    return (torch.cuda.max_memory_allocated(subject.device) - before) / 2**20


def by_operation(subject: Subject, count: int = 12) -> dict[str, float]:
    """Share of a training step's time by operation, of those that take most."""
    subject.step()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        subject.step()
    spent = Counter({event.key: event.self_cpu_time_total for event in trace.key_averages()})
    return {name: time / spent.total() for name, time in spent.most_common(count)}


def by_stage(subject: Subject, stages: list[dict[str, Any]], clock: Clock) -> dict[str, dict[str, float]]:
    """Seconds of a forward pass in training and GFLOP/s, by stage (`stages` of `describe`)."""
    spent, begun, handles = Counter(), {}, []
    gflops = {stage["name"]: 2 * len(subject.clips) * stage["gflops"] for stage in stages if stage["gflops"] > 0}

    def before(module: nn.Module, _: Any) -> None:
        begun[module] = clock()

    def after(name: str, module: nn.Module, *_: Any) -> None:
        spent[name] += clock() - begun[module]

    for name in gflops.keys() & dict(subject.model.named_modules()).keys():
        stage = subject.model.get_submodule(name)
        for module in stage if isinstance(stage, nn.ModuleList) else [stage]:
            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(partial(after, name)))
    subject.model.train()(subject.clips)
    spent.clear()
    subject.model(subject.clips)
    for handle in handles:
        handle.remove()
    timed_stages = [name for name in gflops if spent[name]]
    return {name: {"seconds": spent[name], "gflops_per_second": gflops[name] / spent[name]} for name in timed_stages}


def training_speed(cfg: CfgNode, batch: int, repeats: int, clock: str) -> dict[str, float]:
    """Seconds of a step of the training loop on a cached batch, and of its passes and the optimizer alone.

    `overhead_percent` is what the loop adds to these.
    """
    subject, run = Subject(cfg, batch), start_run(cfg, None)
    run.model.train()
    subject.model, subject.device = run.net, run.device
    measure = partial(interleaved, repeats=repeats, clock=CLOCKS[clock], device=run.device, warmups=1)
    seconds = measure({"loop": lambda: training_step(run, subject.clips, subject.labels), "passes": subject.step})
    subject.step()
    seconds |= measure({"optimizer": lambda: run.optimizer.step()})
    alone = seconds["passes"] + seconds["optimizer"]
    return {
        "batch": batch,
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "clips_per_second": batch / seconds["loop"],
        "overhead_percent": 100 * (seconds["loop"] / alone - 1),
    }


def scaling(cfg: CfgNode, frames: list[int], sizes: list[int], repeats: int, clock: str, label: str) -> dict[str, Any]:
    """Seconds and GFLOPs of a forward pass of one clip in evaluation, against frames and size, with exponents.

    `frames` are of the config's crop, `sizes` (pixels) of the config's frames. The exponents of GFLOPs are expected of
    the seconds if all operations run equally fast.
    """
    figures: dict[str, Any] = {"label": label, "threads": torch.get_num_threads(), "clock": clock}
    shapes = {
        "frames": [(count, count, cfg.DATA.TRAIN_CROP_SIZE) for count in frames],
        "pixels": [(size, cfg.DATA.NUM_FRAMES, size) for size in sizes],
    }
    for name, points in shapes.items():
        rows = []
        for x, count, crop in points:
            subject = Subject(variant(cfg, ["DATA.NUM_FRAMES", count, "DATA.TRAIN_CROP_SIZE", crop]), batch=1)
            seconds = interleaved({"seconds": subject.forward}, repeats, CLOCKS[clock], subject.device, warmups=1)
            rows.append({"x": x, **seconds, "gflops": 2 * cost(cfg, count, crop)[1]})
        exponents = {kind: exponent([(row["x"], row[kind]) for row in rows]) for kind in ("seconds", "gflops")}
        figures[name] = {"rows": rows, "exponents": exponents}
    return figures


def exponent(points: list[tuple[float, float]]) -> float:
    """The slope of the least-squares line through (log x, log y); nan for fewer than two points."""
    xs, ys = ([math.log(point[i]) for point in points] for i in (0, 1))
    return statistics.linear_regression(xs, ys).slope if len(points) > 1 else math.nan


def plot_scaling(path: str, all_figures: list[dict[str, Any]]) -> None:
    """Plot several results of `scaling`: measured seconds, and dashed those expected by operations from the first."""
    from matplotlib.figure import Figure

    figure = Figure((10, 4), dpi=80, layout="constrained", facecolor="white")
    titles = {"frames": "frames", "pixels": "height and width in pixels"}
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for number, figures in enumerate(all_figures):
            x, seconds, gflops = ([row[key] for row in figures[name]["rows"]] for key in ("x", "seconds", "gflops"))
            expected = [seconds[0] * value / gflops[0] for value in gflops]
            axes.loglog(x, seconds, "o-", color=f"C{number}", label=figures["label"])
            axes.loglog(x, expected, "--", color=f"C{number}", linewidth=1)
        axes.set_xticks(x, [str(value) for value in x])
        axes.minorticks_off()
        axes.set_xlabel(title)
        axes.set_ylabel("seconds per clip (dashed: by operations)")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)
