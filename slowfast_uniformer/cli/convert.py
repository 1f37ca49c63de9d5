"""Convert a checkpoint of any known format to safetensors.

    uniformer convert uniformer_small_k400_16x4.pth weights.safetensors
    uniformer convert runs/big/checkpoints/epoch_00003.dcp OUT.pyth

OUT.safetensors has the weights under this program's parameter names. OUT.pyth makes the checkpoint folder of a sharded
run (.dcp) one file, with everything that resuming needs.
"""

import argparse
from collections.abc import Sequence

from slowfast_uniformer import paths
from slowfast_uniformer.cli.common import new_parser, parse_arguments


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = new_parser("convert", __doc__)
    help_text = "checkpoint to read: a file, a run's folder, a published name or an address, as in MODEL.INIT_FROM"
    parser.add_argument("source", type=paths.expand, metavar="IN", help=help_text)
    parser.add_argument("target", type=paths.expand, metavar="OUT", help="file to write, .safetensors or .pyth")
    return parse_arguments(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from slowfast_uniformer.weights.convert import convert

    print("\n".join(convert(args.source, args.target)))
