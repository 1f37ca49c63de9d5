"""Print the parameters, operations and memory of a model.

    uniformer info --cfg k400/uniformer_s
    uniformer info --cfg k400/uniformer_s --depth 2 --crop 256

No weights are loaded.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from slowfast_uniformer.cli.common import config_parser, parse_arguments, positive, table
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.wording import counted

COLUMNS = {  # heading -> key of a row, and its unit
    "params M": ("params", 1e6),
    "trained M": ("trainable", 1e6),
    "GFLOPs": ("gflops", 1),
    "activations M": ("activations", 1e6),
    "saved MiB": ("saved", 2**20),
}
PARTS = {"weights": "weights", "optimizer": "optimizer", "ema": "moving average", "ddp_buckets": "DDP buckets"}
TEXT = """\
{model}, one clip of {frames} frames of {crop} x {crop}: {gflops:,.2f} GFLOPs (a multiply-add counts once)
{params:,} parameters, {trainable:,} trained, {frozen:,} frozen

{stages}

memory of one device, an estimate (without workspaces of operations and allocator fragmentation):
  a training step of {clips}: {train_peak} at the peak
    of which {parts}, saved for the backward pass {saved}
  evaluation of one clip: {eval_peak} at the peak"""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = config_parser("info", __doc__)
    add = parser.add_argument
    add("--frames", type=positive(int), metavar="N", help="frames of a clip (default: DATA.NUM_FRAMES)")
    help_text = "height and width of a frame (default: DATA.TRAIN_CROP_SIZE)"
    add("--crop", type=positive(int), metavar="PIXELS", help=help_text)
    add("--depth", type=positive(int), default=1, metavar="N", help="levels of nested modules in the table")
    add("--json", action="store_true", help="print JSON instead of a table")
    return parse_arguments(parser, argv)


def as_text(facts: dict[str, Any]) -> str:
    """What `describe` returned, for people."""
    rows = [["stage", *COLUMNS]]
    for stage in [*facts["stages"], {**facts, "name": "total"}]:
        rows.append([stage["name"], *(f"{stage[key] / unit:,.3f}" for key, unit in COLUMNS.values())])
    memory = facts["memory"]
    sizes = {key: f"{size / 2**20:,.0f} MiB" for key, size in [*memory.items(), ("saved", facts["saved"])]}
    parts = ", ".join(f"{name} {sizes[key]}" for key, name in PARTS.items() if memory[key] or key == "weights")
    return TEXT.format_map(
        facts | sizes | {"clips": counted(memory["batch"], "clip"), "stages": table(rows), "parts": parts}
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = load_config(args.cfg, args.opts, runs_here=False)
    from slowfast_uniformer.analysis.model_cost import describe

    facts = describe(cfg, args.frames, args.crop, args.depth)
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))
