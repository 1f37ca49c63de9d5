r"""Measure how fast a config's parts run.

    python tools/benchmarks/benchmark.py data --cfg configs/demo/uniformer.yaml [--compare pil] [KEY VALUE ...]
    python tools/benchmarks/benchmark.py model --cfg configs/k400/uniformer_s_16x8.yaml [--against plain] [KEY VALUE]
    python tools/benchmarks/benchmark.py train --cfg configs/k400/uniformer_s_16x8.yaml [--data] [KEY VALUE ...]
    python tools/benchmarks/benchmark.py scaling --cfg configs/k400/uniformer_s_16x8.yaml [--plot FILE.png] [KEY VALUE]
    python tools/benchmarks/benchmark.py checkpoint --cfg configs/k400/uniformerv2_b16_8x224.yaml NUM_GPUS 0 \
        TRAIN.BATCH_SIZE 1

`model`: seconds and GFLOP/s of forward passes and training steps, their share of what a large matrix product
reaches here, memory, time by stage and operation; with `--against plain` ratios to a straightforward build of
the same model, with `--kernels` what would be left if nothing but matrix products, convolutions and attention
took time. `train`: what the training loop adds to the passes and the optimizer, and with `--data` how
long it waits for the train list's videos. `scaling`: time of one clip for several numbers of frames and
sizes, with the exponents of time and operations; `--plot` draws them, with those of other models that
`--json` has written.

`data`: CPU time by stage in one process, what the loader delivers with --workers processes, with --model
which share of a training step waits for it, and with --compare what plainer programs take: `pil` keeps frames
as lists of PIL images, `reopen` opens a video for each of its test views. Ratios above 1 are in favour of
this program.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_speed
import model_speed
import torch
from common import finish

from slowfast_uniformer.config.load import load_config, split_cfg_arguments
from slowfast_uniformer.errors import UserError

# A model is measured, not continued.
FRESH = ["TRAIN.AUTO_RESUME", False, "TRAIN.CHECKPOINT_FILE_PATH", "", "MODEL.INIT_FROM", ""]


def positive(text: str) -> int:
    """A whole number from 1 up."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def parse_args() -> argparse.Namespace:
    """Arguments, with `cfg` the files and `opts` the KEY VALUE pairs that follow them."""
    parser = argparse.ArgumentParser(description="Measure how fast a config's parts run.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help: str, **functions: Callable) -> argparse.ArgumentParser:
        usage = "%(prog)s [options] --cfg FILE.yaml [FILE.yaml ...] [KEY VALUE ...]"
        parser = commands.add_parser(name, help=help, usage=usage)
        parser.set_defaults(**functions)
        parser.add_argument("--cfg", nargs="+", required=True, help="config files, later ones winning")
        parser.add_argument("--threads", type=positive, default=1, help="of PyTorch in this process (%(default)s)")
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
        parser.add_argument("opts", nargs="*", help=argparse.SUPPRESS)
        return parser

    data = command("data", "reading the train list's videos", measure=measure_data, show=show_data)
    data.add_argument("--videos", type=positive, default=32, help="how many to read (%(default)s)")
    data.add_argument("--workers", type=int, help="loading processes (DATA_LOADER.NUM_WORKERS)")
    data.add_argument("--model", action="store_true", help="train the config's model for some steps, too")
    data.add_argument("--steps", type=positive, default=8, help="how many, with --model (%(default)s)")
    data.add_argument(
        "--compare", action="append", choices=("pil", "reopen"), default=[], help="another way, too; repeatable"
    )
    model = command("model", "the model alone", measure=measure_model, show=show_model)
    model.add_argument("--against", choices=("plain",), help="a straightforward build of it, too")
    model.add_argument(
        "--kernels", action="store_true", help="what products, convolutions, attention take by themselves"
    )
    train = command("train", "the training loop", measure=measure_train, show=show_train)
    train.add_argument("--data", action="store_true", help="with the train list's videos, too")
    train.add_argument("--steps", type=positive, default=8, help="how many, with --data (%(default)s)")
    scaling = command("scaling", "cost against frames and pixels", measure=measure_scaling, show=show_scaling)
    scaling.add_argument("--frames", nargs="+", type=positive, default=[4, 8, 16, 32], help="%(default)s")
    scaling.add_argument("--sizes", nargs="+", type=positive, default=[112, 160, 224, 320], help="%(default)s")
    scaling.add_argument("--label", help="what the model is called in the picture (name of the config)")
    scaling.add_argument("--plot", metavar="FILE.png", help="draw a picture")
    scaling.add_argument("--beside", nargs="+", default=[], metavar="FILE.json", help="others in the picture")
    saving = command(
        "checkpoint", "what a step waits for a checkpoint", measure=measure_checkpoints, show=show_checkpoints
    )
    saving.add_argument("--times", type=positive, default=3, help="how often (%(default)s)")
    for each in (model, train):
        each.add_argument("--batch", type=positive, default=1, help="clips or videos in a step (%(default)s)")
    for each in (model, train, scaling):
        each.add_argument("--repeats", type=positive, default=3, help="turns, of which the least counts (%(default)s)")
        each.add_argument(
            "--clock",
            choices=("wall", "cpu"),
            default="wall",
            help="cpu: time of this process, on a machine that others use (one thread)",
        )
    args = parser.parse_args()
    args.cfg, args.opts = split_cfg_arguments(args.cfg, args.opts)
    return args


def measure_data(args: argparse.Namespace) -> dict[str, Any]:
    """The figures that are asked for, by what was measured."""
    workers = [] if args.workers is None else ["DATA_LOADER.NUM_WORKERS", args.workers]
    cfg = load_config(args.cfg, [*args.opts, *workers, *FRESH])
    figures = {"stages": data_speed.stages(cfg, args.videos), "loading": data_speed.loading(cfg, args.videos)}
    if args.model:
        figures["waiting"] = data_speed.waiting(cfg, args.steps)
    if "pil" in args.compare:
        figures["pil"] = data_speed.compare_pil(cfg, args.videos)
    if "reopen" in args.compare:
        three = load_config(args.cfg, [*args.opts, "TEST.NUM_SPATIAL_CROPS", 3])
        figures["reopen"] = data_speed.compare_reopen(three, args.videos)
    return figures


def measure_checkpoints(args: argparse.Namespace) -> dict[str, float]:
    return data_speed.checkpoints(load_config(args.cfg, [*args.opts, *FRESH]), args.times)


def show_checkpoints(figures: dict[str, float]) -> str:
    return (
        f"{figures['parameters'] / 1e6:.1f} M parameters, a checkpoint of {figures['megabytes']:.0f} MB: "
        f"written in {figures['seconds_written']:.2f} s; beside the training a step of "
        f"{figures['seconds_per_step_beside']:.2f} s waits {figures['seconds_waited']:.3f} s of it, "
        f"{figures['waited_percent']:.2f} %"
    )


def show_data(figures: dict[str, Any]) -> str:
    """The figures for people."""
    stages, loading = figures["stages"], figures["loading"]
    total = sum(stages["cpu_ms_per_clip"].values())
    lines = [f"one process, {stages['clips']} training clips:"]
    lines.append(f"  {'stage':<20}{'CPU ms a clip':>14}{'share':>8}")
    for name, spent in stages["cpu_ms_per_clip"].items():
        lines.append(f"  {name:<20}{spent:>14.2f}{spent / total:>8.0%}")
    lines.append(f"  {'total':<20}{total:>14.2f}")
    lines.append(f"  {stages['clips_per_core_second']:.1f} clips per CPU second")
    lines.append(
        f"loader with {loading['workers']} processes: {loading['clips_per_second']:.1f} clips/s, "
        f"{loading['clips_per_second_per_worker']:.1f} each"
    )
    if step := figures.get("waiting"):
        lines.append(
            f"training step: {step['seconds_per_step']:.3f} s, {step['waiting_percent']:.1f} % of it waiting for data"
        )
    if pil := figures.get("pil"):
        lines.append(
            f"clips per CPU second: {pil['ours']:.1f}, with lists of PIL images {pil['pil']:.1f}: "
            f"{pil['ratio']:.2f} times as many"
        )
    if reopen := figures.get("reopen"):
        lines.append(
            f"test videos of {reopen['views']} views per CPU second: {reopen['ours']:.2f}, "
            f"opened for each view by a plain program {reopen['plain']:.2f}: {reopen['plain_ratio']:.2f} "
            f"times as many; by this one {reopen['reopen']:.2f}: {reopen['reopen_ratio']:.2f} times"
        )
    return "\n".join(lines)


def measure_model(args: argparse.Namespace) -> dict[str, Any]:
    cfg = load_config(args.cfg, [*args.opts, *FRESH])
    return model_speed.model_speed(cfg, args.batch, bool(args.against), args.repeats, args.clock, args.kernels)


def show_model(figures: dict[str, Any]) -> str:
    """The figures for people, ratios first."""
    ours, plain = figures["ours"], figures.get("plain")
    lines = []
    if plain:
        ratios = (f"{kind} {figures[f'{kind}_ratio']:.2f}" for kind in ("forward", "step", "memory"))
        lines.append(f"plain over ours: {', '.join(ratios)}")
    lines.append(
        f"{figures['batch']} clips, {figures['threads']} threads, {figures['clock']} clock; a training step "
        f"is at {figures['peak_share']:.0%} of the {figures['peak_gflops']:.1f} GFLOP/s of a matrix product"
    )
    lines.append(f"  {'':<20}" + "".join(f"{name:>12}" for name in ("seconds", "GFLOP/s", "peak MB")))
    for name, row in (("ours", ours), ("plain", plain)):
        for kind in ("forward", "step") if row else ():
            memory = f"{row['memory_mb']:>12.0f}" if kind == "step" else ""
            rates = f"{row[f'{kind}_seconds']:>12.3f}{row[f'{kind}_gflops']:>12.1f}"
            lines.append(f"  {name + ', ' + kind:<20}{rates}{memory}")
    if kernels := figures.get("kernels"):
        lines.append(
            f"matrix products, convolutions and attention by themselves: forward "
            f"{kernels['forward_seconds']:.3f} s, step {kernels['step_seconds']:.3f} s, which would be at "
            f"{kernels['peak_share']:.0%}"
        )
    lines.append("forward pass in training, by stage:")
    for name, row in figures["stages"].items():
        lines.append(f"  {name:<40}{row['seconds']:>10.3f} s{row['gflops_per_second']:>10.1f} GFLOP/s")
    lines.append("training step, by operation:")
    lines += [f"  {name:<60}{share:>8.1%}" for name, share in figures["operations"].items()]
    return "\n".join(lines)


def measure_train(args: argparse.Namespace) -> dict[str, Any]:
    cfg = load_config(args.cfg, [*args.opts, *FRESH, "TRAIN.BATCH_SIZE", args.batch])
    figures = {"cached": model_speed.training_speed(cfg, args.batch, args.repeats, args.clock)}
    if args.data:
        figures["data"] = data_speed.waiting(cfg, args.steps)
    return figures


def show_train(figures: dict[str, Any]) -> str:
    row = figures["cached"]
    lines = [f"{row['clips_per_second']:.2f} clips/s on a batch of {row['batch']} that is there"]
    lines += [f"  {name:<12}{row[f'{name}_seconds']:>10.3f} s" for name in ("loop", "passes", "optimizer")]
    lines.append(f"the loop adds {row['overhead_percent']:.1f} % to passes and optimizer")
    if step := figures.get("data"):
        waiting = f"{step['waiting_percent']:.1f} % of it waiting for data"
        lines.append(f"with videos: {step['seconds_per_step']:.3f} s a step, {waiting}")
    return "\n".join(lines)


def measure_scaling(args: argparse.Namespace) -> dict[str, Any]:
    cfg = load_config(args.cfg, [*args.opts, *FRESH])
    label = args.label or Path(args.cfg[-1]).stem
    others = [read_scaling(path) for path in args.beside]
    figures = model_speed.scaling(cfg, args.frames, args.sizes, args.repeats, args.clock, label)
    if args.plot:
        model_speed.plot_scaling(args.plot, [figures, *others])
    return figures


def read_scaling(path: str) -> dict[str, Any]:
    try:
        figures = json.loads(Path(path).read_text(encoding="utf-8"))
        return {key: figures[key] for key in ("label", "frames", "pixels")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--beside {path}: not what `scaling --json` writes ({error})") from None


def show_scaling(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{figures['label']}, forward pass of one clip, {figures['threads']} threads, {figures['clock']} clock"]
    for name in ("frames", "pixels"):
        lines.append(f"  {name:<10}{'seconds':>10}{'GFLOPs':>10}{'GFLOP/s':>10}")
        for row in figures[name]["rows"]:
            rate = row["gflops"] / row["seconds"]
            lines.append(f"  {row['x']:<10}{row['seconds']:>10.3f}{row['gflops']:>10.1f}{rate:>10.1f}")
        found = figures[name]["exponents"]
        lines.append(f"  {'exponent':<10}{found['seconds']:>10.2f}{found['gflops']:>10.2f}")
    return "\n".join(lines)


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    figures = args.measure(args)
    print(json.dumps(figures, indent=2) if args.json else args.show(figures))


if __name__ == "__main__":
    finish(main)
