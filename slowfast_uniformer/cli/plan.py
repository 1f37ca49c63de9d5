"""Estimate a run on many GPUs: batch, steps, memory, communication, checkpoints.

    uniformer plan --cfg k400/uniformer_b --nodes 4 --gpu-memory 80

Nothing is trained. --check compares the estimated memory with training steps on this machine's CPU.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from slowfast_uniformer import terminal
from slowfast_uniformer.cli.common import config_parser, parse_arguments, positive, table
from slowfast_uniformer.config.load import load_config, load_recipe
from slowfast_uniformer.wording import counted

BANDWIDTH = 25.0  # GB/s: 200 Gbit/s for each GPU
PARTS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "moving_average": "exponential moving average",
    "buckets": "DDP buckets",
    "gathered": "all-gathered blocks",
    "next_batch": "clips beside the step",
}
CHECKPOINTING = {
    "none": "no activation checkpointing:",
    "configured": "MODEL.CHECKPOINT_NUM as configured:",
    "all": "activation checkpointing of every block:",
}
TEXT = """\
{model} on {devices}, {parallel}, mixed precision {precision}
global batch {batch[videos]} videos, {batch[videos_per_gpu]} per GPU; {clips} per forward pass
learning rate {rate[applied_by]}; the recipe's is {rate[recipe]:g} at {rate[recipe_videos]} videos, which scales \
linearly to {rate[linear]:g}{advice}
{videos} ({steps[source]}): {per_epoch} per epoch, {steps[total]:,} in {epochs}

{memory_table}

{times}
decoding on each machine at {per_step}: {decoding[videos_per_second]:,.1f} videos/s, \
{decoding[clips_per_second]:,.1f} clips/s; each of {decoding[workers]} DataLoader workers \
{decoding[clips_per_second_per_worker]:,.2f} clips/s

checkpoints: {sizes[bytes]} each, {checkpoints[files]} kept, {sizes[total]} in total"""
# --check measures a fresh run of one process, without weights
FRESH = {"NUM_GPUS": 0, "NUM_SHARDS": 1, "TRAIN.AUTO_RESUME": False}
FRESH |= {"TRAIN.CHECKPOINT_FILE_PATH": "", "MODEL.INIT_FROM": ""}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = config_parser("plan", __doc__, required=False)
    add = parser.add_argument
    add("--nodes", type=positive(int), metavar="N", help="number of machines (default: NUM_SHARDS)")
    add("--gpus-per-node", type=positive(int), metavar="N", help="GPUs of each machine (default: NUM_GPUS)")
    help_text = "memory of a GPU; says whether the run fits, and what makes it fit"
    add("--gpu-memory", type=positive(float), metavar="GB", help=help_text)
    help_text = "speed that a GPU reaches in practice, not its peak; a multiply-add counts as two operations"
    add("--gpu-tflops", type=positive(float), metavar="TFLOPS", help=help_text)
    help_text = "GB/s from a rank to the others, each way (default: %(default)s, 200 Gbit/s for each GPU)"
    add("--bandwidth", type=positive(float), default=BANDWIDTH, metavar="GB/S", help=help_text)
    add("--step-seconds", type=positive(float), metavar="SECONDS", help="measured time of a step, if you know it")
    help_text = "number of training videos (default: counted in the train list)"
    add("--videos", type=positive(int), metavar="N", help=help_text)
    help_text = "measure memory on this CPU and compare (default without --cfg: three small models)"
    add("--check", action="store_true", help=help_text)
    add("--json", action="store_true", help="print JSON instead of text")
    args = parse_arguments(parser, argv)
    if not args.cfg and not args.check:
        parser.error("a config is needed: add --cfg CONFIG, such as --cfg k400/uniformer_s")
    return args


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """A time for people, in seconds below two minutes, in minutes below two hours."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def as_text(facts: dict[str, Any]) -> str:
    """What `plan.plan` returned, for people."""
    rate, time = facts["learning_rate"], facts["time"]
    per_step = f"{time['seconds_per_step']:.3g} s per step"
    times = []
    for layout, sent in facts["communication"].items():
        seconds = f"{sent['seconds'] * 1e3:,.1f} ms"
        times.append(f"communication of a step, {layout.upper()}: {size(sent['bytes'])} sent by each rank, {seconds}")
    times.append(f"compute of a step: {time['flops'] / 1e12:,.2f} TFLOP on each GPU")
    if time["compute"]:
        times.append(
            f"  at the given TFLOP/s {time['compute']:.3f} s, with communication "
            f"{time['without_overlap']:.3f} s if nothing overlaps"
        )
    if time["given"]:
        took = duration(3600 * time["hours"])
        times.append(f"training {took} at {per_step}, without validation and waiting for data")
    advice = "" if abs(rate["applied"] / rate["linear"] - 1) < 1e-6 else " - set SOLVER.BASE_LR"
    sizes = {key: size(facts["checkpoints"][key]) for key in ("bytes", "total")}
    shown = {"rate": rate, "advice": advice, "per_step": per_step, "times": "\n".join(times), "sizes": sizes}
    shown["devices"] = f"{counted(facts['gpus'], 'GPU')} of {counted(facts['machines'], 'machine')}"
    shown["clips"] = counted(facts["batch"]["clips_at_once"], "clip")
    for key, noun in (("videos", "video"), ("per_epoch", "step"), ("epochs", "epoch")):
        shown[key] = counted(facts["steps"][key], noun)
    text = TEXT.format_map(facts | shown | {"memory_table": memory_table(facts["memory"])})
    notes = "".join(f"\nnote: {note}" for note in facts["notes"])
    return text + notes + fit_line(facts["memory"])


def memory_table(memory: dict[str, Any]) -> str:
    """The memory of a GPU with DDP and with FSDP."""
    parts, peaks = memory["parts"].values(), memory["peak"].values()
    rows = [["memory of a GPU, estimated", *map(str.upper, memory["parts"])]]
    rows += [[f"  {title}", *(size(held[part]) for held in parts)] for part, title in PARTS.items()]
    for name, saved in memory["saved"].items():
        rows.append([CHECKPOINTING[name], "", ""])
        rows.append(["  activations", size(saved), size(saved)])
        rows.append(["  peak of a step", *(size(peak[name]) for peak in peaks)])
    return table(rows)


def fit_line(memory: dict[str, Any]) -> str:
    """A line on whether the run fits the GPU's memory, and what would make it fit; empty where that is unknown."""
    if memory["usable"] is None:
        return ""
    needed = f"{size(memory['plan'])} of {size(memory['usable'])} usable"
    if memory["fits"]:
        return f"\nFITS the GPU's memory: {needed}"
    remedy = "no setting here makes it fit: take fewer or smaller frames, or a smaller model"
    if memory["remedy"]:
        keys = ", ".join(f"{key} {value}" for key, value in memory["remedy"]["keys"].items())
        remedy = f"with {keys} it would take {size(memory['remedy']['peak'])}"
    return f"\nDOES NOT FIT the GPU's memory: {needed}; {remedy}"


def comparison(rows: list[dict[str, Any]]) -> str:
    """What `memory_check.check` returned, for people."""
    lines = [["peak of a step on the CPU, MB", "estimated", "measured", "ratio"]]
    for row in rows:
        peaks = [f"{row[key] / 1e6:,.1f}" for key in ("planned", "measured")]
        lines.append([row["name"], *peaks, f"{row['ratio']:.3f}"])
    return table(lines)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    opts = {"NUM_SHARDS": args.nodes, "NUM_GPUS": args.gpus_per_node}
    opts = FRESH if args.check else {key: value for key, value in opts.items() if value}
    overrides = [*args.opts, *(item for pair in opts.items() for item in pair)]
    cfg = load_config(args.cfg, overrides, runs_here=False) if args.cfg else None
    what = "measuring the memory of training steps" if args.check else "counting memory and operations of a step"
    terminal.show(f"{what}; this may take a minute or two ...", error=True)
    from slowfast_uniformer.analysis import memory_check, plan

    if args.check:
        facts = memory_check.check({args.cfg[-1]: cfg} if args.cfg else memory_check.small_configs())
    else:
        hardware = (args.bandwidth, args.gpu_memory, args.gpu_tflops)
        facts = plan.plan(cfg, load_recipe(args.cfg[0]), args.videos, args.step_seconds, *hardware)
    show = comparison if args.check else as_text
    print(json.dumps(facts, indent=2) if args.json else show(facts))
