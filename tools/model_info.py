"""Say what the model of a config costs: parameters, operations, memory.

python tools/model_info.py --cfg configs/k400/uniformer_s.yaml [KEY VALUE ...]
"""

import argparse
import json
from typing import Any

from common import finish

from slowfast_uniformer.analysis.model_cost import describe
from slowfast_uniformer.config.load import load_config, split_cfg_arguments

COLUMNS = {  # heading -> key of a row, and its unit
    "params M": ("params", 1e6),
    "trained M": ("trainable", 1e6),
    "GFLOPs": ("gflops", 1),
    "activations M": ("activations", 1e6),
    "saved MiB": ("saved", 2**20),
}


def positive(text: str) -> int:
    """A whole number from 1 up."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def parse_args() -> argparse.Namespace:
    """Arguments, with `cfg` the files and `opts` the KEY VALUE pairs that follow them."""
    parser = argparse.ArgumentParser(
        description="Say what the model of a config costs. No weights are loaded.",
        usage="%(prog)s [options] --cfg FILE.yaml [FILE.yaml ...] [KEY VALUE ...]",
    )
    parser.add_argument("--cfg", nargs="+", required=True, help="config files, later ones winning")
    parser.add_argument("--frames", type=positive, help="frames of the clip (DATA.NUM_FRAMES)")
    parser.add_argument("--crop", type=positive, help="its side in pixels (DATA.TRAIN_CROP_SIZE)")
    parser.add_argument("--depth", type=positive, default=1, help="2, 3, ... for finer rows (1)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("opts", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.cfg, args.opts = split_cfg_arguments(args.cfg, args.opts)
    return args


def table(facts: dict[str, Any]) -> str:
    """What `describe` found, for people."""
    rows = [["stage", *COLUMNS]]
    for stage in [*facts["stages"], {**facts, "name": "total"}]:
        rows.append([stage["name"], *(f"{stage[key] / unit:,.3f}" for key, unit in COLUMNS.values())])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        "  ".join([row[0].ljust(first), *(text.rjust(w) for text, w in zip(row[1:], others, strict=True))])
        for row in rows
    ]
    in_mib = {key: f"{size / 2**20:,.0f} MiB" for key, size in facts["memory"].items()}
    parts = ", ".join(f"{key} {in_mib[key]}" for key in ("weights", "optimizer", "ema", "ddp_buckets"))
    return "\n".join(
        [
            f"{facts['model']}, one clip of {facts['frames']} frames of {facts['crop']} x {facts['crop']}: "
            f"{facts['gflops']:,.2f} GFLOPs (a multiply-add counts once)",
            f"{facts['params']:,} parameters, {facts['trainable']:,} trained, {facts['frozen']:,} frozen",
            "",
            *lines,
            "",
            "memory of one device, an estimate (buffers of single operations and allocator's slack left out):",
            f"  a training step of {facts['memory']['batch']} clip(s): {in_mib['train_peak']} at the peak",
            f"    in which {parts}, saved for the backward pass {facts['saved'] / 2**20:,.0f} MiB",
            f"  evaluation of one clip: {in_mib['eval_peak']} at the peak",
        ]
    )


def main() -> None:
    args = parse_args()
    facts = describe(load_config(args.cfg, args.opts, runs_here=False), args.frames, args.crop, args.depth)
    print(json.dumps(facts, indent=2) if args.json else table(facts))


if __name__ == "__main__":
    finish(main)
