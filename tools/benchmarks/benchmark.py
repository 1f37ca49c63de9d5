r"""Measure speed and memory of a config's data pipeline, model and training loop.

    python tools/benchmarks/benchmark.py data --cfg configs/demo/uniformer.yaml [--compare pil] [KEY VALUE ...]
    python tools/benchmarks/benchmark.py model --cfg configs/k400/uniformer_s_16x8.yaml [--against reference]
    python tools/benchmarks/benchmark.py train --cfg configs/k400/uniformer_s_16x8.yaml [--data] [KEY VALUE ...]
    python tools/benchmarks/benchmark.py scaling --cfg configs/k400/uniformer_s_16x8.yaml [--plot FILE.png]
    python tools/benchmarks/benchmark.py checkpoint --cfg configs/k400/uniformerv2_b16_8x224.yaml NUM_GPUS 0 \
        TRAIN.BATCH_SIZE 1

`data`: CPU time by stage in one process, throughput of the DataLoader, with --model the share of a training step that
waits for data, and with --compare baselines: `pil` keeps frames as lists of PIL images, `reopen` opens a video for each
of its test views. Ratios above 1 are in favour of this program.

`model`: seconds and GFLOP/s of forward passes and training steps, their share of the rate of a large matrix product,
memory, time by stage and operation. `--against reference` adds ratios to the reference implementations; `--kernels` the
time of matrix products, convolutions and attention alone, which is a lower bound.

`train`: overhead of the training loop over its passes and the optimizer; with --data also the time that it waits for
the train list's videos. `scaling`: time of one clip for several numbers of frames and sizes, with the exponents of time
and operations. `checkpoint`: time that training waits for checkpoints that are written in the background.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_speed
import model_speed
import torch
from fvcore.common.config import CfgNode
from results import to_json

from slowfast_uniformer.cli.common import finish, parse_arguments, positive, table
from slowfast_uniformer.config.load import load_config, variant
from slowfast_uniformer.errors import UserError

# A model is measured from new weights.
FRESH = ["TRAIN.AUTO_RESUME", False, "TRAIN.CHECKPOINT_FILE_PATH", "", "MODEL.INIT_FROM", ""]
WAITING = "training step: {seconds_per_step:.3f} s, {waiting_percent:.1f} % of it waiting for data"
BASELINES = {
    "pil": "clips per CPU second: {ours:.1f}, with lists of PIL images {pil:.1f}: ratio {ratio:.2f}",
    "reopen": "test videos of {views} views per CPU second: {ours:.2f}, opened for each view with PIL images "
    "{reference:.2f}: ratio {reference_ratio:.2f}; with this program's decoder {reopen:.2f}: ratio {reopen_ratio:.2f}",
}
CHECKPOINT = """\
{millions:.1f} M parameters, a checkpoint of {megabytes:.0f} MB: written in {seconds_written:.2f} s; in the background \
a training step of {seconds_per_step_beside:.2f} s waits {seconds_waited:.3f} s of it, {waited_percent:.2f} %"""


def parse_args() -> argparse.Namespace:
    """Arguments, with `cfg` the files and `opts` the KEY VALUE pairs that follow them."""
    natural = positive(int)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--cfg", nargs="+", required=True, help="config files, later ones override earlier ones")
    shared.add_argument("--threads", type=natural, default=1, help="threads of PyTorch in this process (%(default)s)")
    shared.add_argument("--json", action="store_true", help="print JSON instead of text")
    shared.add_argument("opts", nargs="*", help=argparse.SUPPRESS)
    timing = argparse.ArgumentParser(add_help=False)
    timing.add_argument("--repeats", type=natural, default=3, help="repeats, whose minimum counts (%(default)s)")
    help_text = "cpu: CPU time of this process, on a machine with other load (one thread)"
    timing.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=help_text)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    usage = "%(prog)s [options] --cfg CONFIG [CONFIG ...] [KEY VALUE ...]"

    def command(name: str, about: str, measure: Callable, show: Callable, *parents: Any) -> Callable:
        parser = commands.add_parser(name, help=about, usage=usage, parents=[shared, *parents])
        parser.set_defaults(measure=measure, show=show)
        return parser.add_argument

    add = command("data", "the data pipeline", measure_data, show_data)
    add("--videos", type=natural, default=32, help="videos to read (%(default)s)")
    add("--workers", type=int, help="DataLoader workers (DATA_LOADER.NUM_WORKERS)")
    add("--model", action="store_true", help="also take training steps of the model")
    add("--steps", type=natural, default=8, help="steps with --model (%(default)s)")
    add("--compare", action="append", choices=tuple(BASELINES), default=[], help="also measure a baseline; repeatable")
    add = command("model", "the model alone", measure_model, show_model, timing)
    add("--batch", type=natural, default=1, help="clips of a step (%(default)s)")
    add("--against", choices=("reference",), help="also measure the reference implementations")
    add("--kernels", action="store_true", help="also matrix products, convolutions and attention alone")
    add = command("train", "the training loop", measure_train, show_train, timing)
    add("--batch", type=natural, default=1, help="videos of a step (%(default)s)")
    add("--data", action="store_true", help="also with the train list's videos")
    add("--steps", type=natural, default=8, help="steps with --data (%(default)s)")
    add = command("scaling", "cost against frames and pixels", measure_scaling, show_scaling, timing)
    add("--frames", nargs="+", type=natural, default=[4, 8, 16, 32], help="%(default)s")
    add("--sizes", nargs="+", type=natural, default=[112, 160, 224, 320], help="%(default)s")
    add("--label", help="name of the model in the plot (name of the config)")
    add("--plot", metavar="FILE.png", help="draw a plot")
    add("--beside", nargs="+", default=[], metavar="FILE.json", help="results of --json to add to the plot")
    add = command("checkpoint", "background checkpoint writing", measure_checkpoint, show_checkpoint)
    add("--times", type=natural, default=3, help="repeats, whose minimum counts (%(default)s)")
    return parse_arguments(parser)


def measure_data(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    """The figures that are asked for, by what was measured."""
    if args.workers is not None:
        cfg = variant(cfg, ["DATA_LOADER.NUM_WORKERS", args.workers])
    figures = {"stages": data_speed.stages(cfg, args.videos), "loading": data_speed.loading(cfg, args.videos)}
    if args.model:
        figures["waiting"] = data_speed.waiting(cfg, args.steps)
    if "pil" in args.compare:
        figures["pil"] = data_speed.compare_pil(cfg, args.videos)
    if "reopen" in args.compare:
        figures["reopen"] = data_speed.compare_reopen(variant(cfg, ["TEST.NUM_SPATIAL_CROPS", 3]), args.videos)
    return figures


def show_data(figures: dict[str, Any]) -> str:
    """The figures as text."""
    stages, loading = figures["stages"], figures["loading"]
    spent = stages["cpu_ms_per_clip"]
    total = sum(spent.values())
    rows = [(f"  {name}", f"{time:.2f}", f"{time / total:.0%}") for name, time in spent.items()]
    lines = [
        f"one process, {stages['clips']} training clips:",
        table([("  stage", "CPU ms per clip", "share"), *rows, ("  total", f"{total:.2f}", "")]),
        f"  {stages['clips_per_core_second']:.1f} clips per CPU second",
        f"DataLoader with {loading['workers']} workers: {loading['clips_per_second']:.1f} clips/s, "
        f"{loading['clips_per_second_per_worker']:.1f} per worker",
    ]
    if "waiting" in figures:
        lines.append(WAITING.format_map(figures["waiting"]))
    lines += [text.format_map(figures[name]) for name, text in BASELINES.items() if name in figures]
    return "\n".join(lines)


def measure_model(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    return model_speed.model_speed(cfg, args.batch, bool(args.against), args.repeats, args.clock, args.kernels)


def show_model(figures: dict[str, Any]) -> str:
    """The figures as text, ratios first."""
    lines, rows = [], [("", "seconds", "GFLOP/s", "peak MB")]
    if "reference" in figures:
        ratios = (f"{kind} {figures[f'{kind}_ratio']:.2f}" for kind in ("forward", "step", "memory"))
        lines.append(f"reference over ours: {', '.join(ratios)}")
    lines.append(
        f"{figures['batch']} clips, {figures['threads']} threads, {figures['clock']} clock; a training step "
        f"is at {figures['peak_share']:.0%} of the {figures['peak_gflops']:.1f} GFLOP/s of a matrix product"
    )
    for name in [name for name in ("ours", "reference") if name in figures]:
        row = figures[name]
        for kind, memory in (("forward", ""), ("step", f"{row['memory_mb']:.0f}")):
            rates = f"{row[f'{kind}_seconds']:.3f}", f"{row[f'{kind}_gflops']:.1f}"
            rows.append((f"  {name}, {kind}", *rates, memory))
    lines.append(table(rows))
    if kernels := figures.get("kernels"):
        lines.append(
            f"matrix products, convolutions and attention alone: forward {kernels['forward_seconds']:.3f} s, "
            f"step {kernels['step_seconds']:.3f} s, which would be at {kernels['peak_share']:.0%}"
        )
    rates = []
    for name, row in figures["stages"].items():
        rates.append((f"  {name}", f"{row['seconds']:.3f} s", f"{row['gflops_per_second']:.1f} GFLOP/s"))
    shares = [(f"  {name}", f"{share:.1%}") for name, share in figures["operations"].items()]
    lines += ["forward pass in training, by stage:", table(rates), "training step, by operation:", table(shares)]
    return "\n".join(lines)


def measure_train(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    cfg = variant(cfg, ["TRAIN.BATCH_SIZE", args.batch])
    figures = {"cached": model_speed.training_speed(cfg, args.batch, args.repeats, args.clock)}
    if args.data:
        figures["data"] = data_speed.waiting(cfg, args.steps)
    return figures


def show_train(figures: dict[str, Any]) -> str:
    row = figures["cached"]
    lines = [f"{row['clips_per_second']:.2f} clips/s on a cached batch of {row['batch']}"]
    lines += [f"  {name:<12}{row[f'{name}_seconds']:>10.3f} s" for name in ("loop", "passes", "optimizer")]
    lines.append(f"the loop adds {row['overhead_percent']:.1f} % to passes and optimizer")
    if "data" in figures:
        lines.append(f"with videos, {WAITING.format_map(figures['data'])}")
    return "\n".join(lines)


def measure_scaling(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    others = [read_scaling(path) for path in args.beside]
    label = args.label or Path(args.cfg[-1]).stem
    figures = model_speed.scaling(cfg, args.frames, args.sizes, args.repeats, args.clock, label)
    if args.plot:
        model_speed.plot_scaling(args.plot, [figures, *others])
    return figures


def read_scaling(path: str) -> dict[str, Any]:
    try:
        (figures,) = json.loads(Path(path).read_text(encoding="utf-8"))["rows"]
        return {key: figures[key] for key in ("label", "frames", "pixels")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--beside {path}: not what `scaling --json` writes ({error})") from None


def show_scaling(figures: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"{figures['label']}, forward pass of one clip, {figures['threads']} threads, {figures['clock']} clock"]
    rows = []
    for name in ("frames", "pixels"):
        rows.append((f"  {name}", "seconds", "GFLOPs", "GFLOP/s"))
        for row in figures[name]["rows"]:
            rate = row["gflops"] / row["seconds"]
            rows.append((f"  {row['x']}", f"{row['seconds']:.3f}", f"{row['gflops']:.1f}", f"{rate:.1f}"))
        found = figures[name]["exponents"]
        rows.append(("  exponent", f"{found['seconds']:.2f}", f"{found['gflops']:.2f}", ""))
    return "\n".join([*lines, table(rows)])


def measure_checkpoint(cfg: CfgNode, args: argparse.Namespace) -> dict[str, float]:
    return data_speed.checkpoints(cfg, args.times)


def show_checkpoint(figures: dict[str, float]) -> str:
    return CHECKPOINT.format(millions=figures["parameters"] / 1e6, **figures)


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    figures = args.measure(load_config(args.cfg, [*args.opts, *FRESH]), args)
    print(to_json([figures], args.threads) if args.json else args.show(figures))


if __name__ == "__main__":
    finish(main)
