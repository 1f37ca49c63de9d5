"""List the recipes, or print the resolved config of one. Nothing is run.

    uniformer config
    uniformer config --cfg k400/uniformer_s --diff SOLVER.MAX_EPOCH 50

What --cfg prints is YAML that --cfg accepts again.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from slowfast_uniformer.cli.common import config_parser, parse_arguments
from slowfast_uniformer.config.load import difference, load_config, to_dict


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = config_parser("config", __doc__, required=False)
    parser.add_argument("--diff", action="store_true", help="print only what differs from the defaults")
    args = parse_arguments(parser, argv)
    if not args.cfg and (args.opts or args.diff):
        parser.error("--cfg FILE.yaml is required with --diff and with KEY VALUE pairs")
    return args


def nest(values: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts of values by dotted keys."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return nested


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    if not args.cfg:
        from slowfast_uniformer.config.recipes import list_recipes

        return print("\n".join(list_recipes()))
    notes: list[str] = []
    cfg = load_config(args.cfg, args.opts, notes, runs_here=False)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if args.diff:
        import yaml

        print(yaml.safe_dump(nest(to_dict(difference(cfg)))), end="")
    else:
        print(cfg.dump(), end="")
