"""Say what a run on many machines will take: batch, steps, memory of a GPU, communication, decoding, disk.

python tools/plan.py --cfg configs/k400/uniformer_b.yaml --nodes 4 --gpu-memory 80 [KEY VALUE ...]

With --check, the planned memory is held against training steps on this machine's CPU.
"""

import argparse
import json
from typing import Any

from common import finish

from slowfast_uniformer.analysis import plan
from slowfast_uniformer.config.load import load_config, split_cfg_arguments

PARTS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "moving_average": "moving average",
    "buckets": "DDP's buckets",
    "gathered": "blocks gathered",
}
RECOMPUTED = {
    "none": "nothing recomputed",
    "configured": "CHECKPOINT_NUM as configured",
    "all": "every block recomputed",
}


def number(kind: type) -> Any:
    """A reader of numbers above 0."""

    def read(text: str) -> Any:
        if (value := kind(text)) <= 0:
            raise ValueError
        return value

    read.__name__ = f"positive {kind.__name__}"
    return read


def parse_args() -> argparse.Namespace:
    """Arguments, with `cfg` the files and `opts` the KEY VALUE pairs that follow them."""
    parser = argparse.ArgumentParser(
        description="Plan a run on many machines. Nothing is trained, no weights are loaded.",
        usage="%(prog)s [options] --cfg FILE.yaml [FILE.yaml ...] [KEY VALUE ...]",
    )
    whole, real = number(int), number(float)
    parser.add_argument("--cfg", nargs="+", help="config files, later ones winning")
    parser.add_argument("--nodes", type=whole, help="machines (NUM_SHARDS)")
    parser.add_argument("--gpus-per-node", type=whole, help="GPUs of each (NUM_GPUS)")
    parser.add_argument(
        "--bandwidth",
        type=real,
        default=plan.Hardware.bandwidth,
        help="GB/s of a rank to the others, each way (%(default)s: 200 Gbit/s for each GPU)",
    )
    parser.add_argument("--gpu-memory", type=real, help="GB of a GPU")
    parser.add_argument(
        "--gpu-tflops", type=real, help="TFLOP/s that a GPU achieves (multiply and add are two), not its peak"
    )
    parser.add_argument("--step-seconds", type=real, help="how long a step takes, where you know it")
    parser.add_argument("--videos", type=whole, help="videos of the train list, where it is not here")
    parser.add_argument(
        "--check",
        action="store_true",
        help="measure memory on this CPU and compare; without --cfg, of three small models",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("opts", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.cfg and not args.check:
        parser.error("the following arguments are required: --cfg")
    if args.cfg:
        args.cfg, args.opts = split_cfg_arguments(args.cfg, args.opts)
    return args


def planned(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of `plan.plan` for the arguments."""
    sizes = {"NUM_SHARDS": args.nodes, "NUM_GPUS": args.gpus_per_node}
    pairs = [item for key, value in sizes.items() if value for item in (key, value)]
    cfg = load_config(args.cfg, [*args.opts, *pairs], runs_here=False)
    recipe = load_config(args.cfg[0], runs_here=False)
    hardware = plan.Hardware(args.bandwidth, args.gpu_memory, args.gpu_tflops)
    return plan.plan(cfg, recipe, hardware, args.videos, args.step_seconds)


def checked(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of `plan.check`: of the config given, or of the small models."""
    if not args.cfg:
        return plan.check(plan.small_configs())
    fresh = [
        "NUM_GPUS",
        0,
        "NUM_SHARDS",
        1,
        "TRAIN.AUTO_RESUME",
        False,
        "TRAIN.CHECKPOINT_FILE_PATH",
        "",
        "MODEL.INIT_FROM",
        "",
    ]
    return plan.check({args.cfg[-1]: load_config(args.cfg, [*args.opts, *fresh])})


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def text(facts: dict[str, Any]) -> str:
    """What `plan.plan` found, for people."""
    rate, steps, batch = facts["learning_rate"], facts["steps"], facts["batch"]
    same = abs(rate["applied"] / rate["linear"] - 1) < 1e-6
    files = facts["checkpoints"]
    return "\n".join(
        [
            f"{facts['model']} on {facts['gpus']} GPUs of {facts['machines']} machine(s), {facts['parallel']}, "
            f"mixed precision {facts['precision']}",
            f"global batch {batch['videos']} videos, {batch['videos_per_gpu']} a GPU; at once "
            f"{batch['clips_at_once']} clip(s)",
            f"learning rate {rate['applied']:g}; linear from the recipe's {rate['recipe']:g} at "
            f"{rate['recipe_videos']} videos: {rate['linear']:g}{'' if same else ' - set SOLVER.BASE_LR'}",
            f"{steps['videos']:,} videos ({steps['source']}): {steps['per_epoch']:,} steps an epoch, "
            f"{steps['total']:,} in {steps['epochs']} epochs",
            "",
            *memory(facts["memory"]),
            "",
            *time(facts),
            "",
            f"checkpoints: {size(files['bytes'])} each, {files['files']} kept, {size(files['total'])} in all",
            *verdict(facts["memory"]),
        ]
    )


def memory(facts: dict[str, Any]) -> list[str]:
    """Lines of the memory table."""
    lines = [f"{'memory of a GPU, estimated':<34}{'DDP':>12}{'FSDP':>12}"]
    for part, title in PARTS.items():
        held = [facts["parts"][how].get(part, 0) for how in plan.LAYOUTS]
        lines.append(f"  {title:<32}{size(held[0]):>12}{size(held[1]):>12}")
    for name, saved in facts["saved"].items():
        peaks = [facts["peak"][how][name] for how in plan.LAYOUTS]
        lines += [f"{RECOMPUTED[name]}:", f"  {'activations':<32}{size(saved):>12}{size(saved):>12}"]
        lines.append(f"  {'peak of a step':<32}{size(peaks[0]):>12}{size(peaks[1]):>12}")
    return lines


def time(facts: dict[str, Any]) -> list[str]:
    """Lines on communication, time and reading."""
    spent, read = facts["time"], facts["decoding"]
    lines = [
        f"communication of a step, {how.upper()}: {size(sent['bytes'])} sent by each rank, "
        f"{sent['seconds'] * 1e3:,.1f} ms"
        for how, sent in facts["communication"].items()
    ]
    lines.append(f"arithmetic of a step: {spent['flops'] / 1e12:,.2f} TFLOP on each GPU")
    if spent["compute"]:
        lines.append(
            f"  at the TFLOP/s given {spent['compute']:.3f} s, with communication "
            f"{spent['without_overlap']:.3f} s if nothing overlaps"
        )
    second = f"{spent['seconds_per_step']:.3g} s a step"
    if spent["given"]:
        lines.append(f"training {spent['hours']:,.1f} h at {second}, validation and waiting left out")
    lines.append(
        f"reading on each machine at {second}: {read['videos_per_second']:,.1f} videos/s, "
        f"{read['clips_per_second']:,.1f} clips/s; by each of {read['workers']} loading processes "
        f"{read['clips_per_second_per_worker']:,.2f} clips/s"
    )
    return lines


def verdict(facts: dict[str, Any]) -> list[str]:
    """A line that says whether the plan fits the GPU's memory, and what makes it fit."""
    if facts["usable"] is None:
        return []
    needed = f"{size(facts['plan'])} of {size(facts['usable'])} that are counted on"
    if facts["fits"]:
        return [f"FITS the GPU's memory: {needed}"]
    remedy = "nothing here makes it fit: take fewer or smaller frames, or a smaller model"
    if facts["remedy"]:
        keys = ", ".join(f"{key} {value}" for key, value in facts["remedy"]["keys"].items())
        remedy = f"with {keys} it would take {size(facts['remedy']['peak'])}"
    return [f"DOES NOT FIT the GPU's memory: {needed}; {remedy}"]


def comparison(rows: list[dict[str, Any]]) -> str:
    """What `plan.check` found, for people."""
    lines = [f"{'peak of a step on the CPU, MB':<46}{'planned':>10}{'measured':>10}{'ratio':>8}"]
    lines += [
        f"{row['name']:<46}{row['planned'] / 1e6:>10,.1f}{row['measured'] / 1e6:>10,.1f}{row['ratio']:>8.3f}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    args = parse_args()
    find, show = (checked, comparison) if args.check else (planned, text)
    facts = find(args)
    print(json.dumps(facts, indent=2) if args.json else show(facts))


if __name__ == "__main__":
    finish(main)
