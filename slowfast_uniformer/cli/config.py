"""List the recipes, or print the full config of one.

    uniformer config
    uniformer config --cfg k400/uniformer_s
    uniformer config --cfg k400/uniformer_s --diff SOLVER.MAX_EPOCH 50

Nothing is run. What --cfg prints is YAML that --cfg accepts again.
"""

import argparse
from collections.abc import Sequence

from fvcore.common.config import CfgNode

from slowfast_uniformer import terminal
from slowfast_uniformer.cli.common import config_parser, parse_arguments
from slowfast_uniformer.config.keys import set_key
from slowfast_uniformer.config.load import difference, load_config
from slowfast_uniformer.config.recipes import list_recipes


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = config_parser("config", __doc__, required=False)
    parser.add_argument("--diff", action="store_true", help="print only keys that differ from the defaults")
    args = parse_arguments(parser, argv)
    if not args.cfg and (args.opts or args.diff):
        parser.error("--diff and KEY VALUE pairs need a config: add --cfg CONFIG")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if not args.cfg:
        return print("\n".join(list_recipes()))
    notes: list[str] = []
    cfg = load_config(args.cfg, args.opts, notes, runs_here=False)
    for note in notes:
        terminal.show(f"note: {note}", error=True)
    if args.diff:
        changed, cfg = difference(cfg), CfgNode()
        for key, value in changed.items():
            set_key(cfg, key, value)
    print(cfg.dump(), end="")
