r"""Fit classifiers to the features of a frozen model.

    uniformer probe --checkpoint k400/uniformer_s --set MODEL.NUM_CLASSES 7 \
        --set DATA.PATH_TO_DATA_DIR my_lists
    uniformer probe --checkpoint runs/demo --method linear --save probed.pyth

Three kinds are fitted: nearest neighbours (knn), logistic regression (linear) and attention (attentive). The model's
features of the videos in the train and val list are stored once. The classifiers are fitted to those of the train list,
with settings that cross-validation chooses, and tested on the val list. After an interruption the same command
continues. docs/probe.md has an example.
"""

import argparse
from collections.abc import Sequence
from functools import partial

from slowfast_uniformer import paths
from slowfast_uniformer.cli.common import load_arguments, model_parser, parse_model_arguments, table

METHODS = ("knn", "linear", "attentive")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = model_parser("probe", __doc__, videos=False, model=("--checkpoint", "--init-from"))
    add = parser.add_argument
    help_text = "fit these, of knn, linear, attentive (default: all)"
    add("--method", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD", help=help_text)
    add("--split", choices=("val", "test"), default="val", metavar="SPLIT", help="test on this list, val or test")
    help_text = "write the model with the new classifier as a checkpoint; needs one --method, linear or attentive"
    add("--save", type=paths.expand, default="", metavar="OUT.pyth", help=help_text)
    add("--folds", type=int, default=5, metavar="N", help="number of folds of the cross-validation")
    help_text = "where to store the features (default: OUTPUT_DIR/probe)"
    add("--cache", type=paths.expand, default="", metavar="FOLDER", help=help_text)
    add("--workers", type=int, default=2, metavar="N", help="DataLoader workers of each process")
    args = parse_model_arguments(parser, argv)
    if args.workers < 0:
        parser.error(f"--workers: {args.workers} must be 0 or more")
    if args.folds < 2:
        parser.error(f"--folds: {args.folds} must be 2 or more")
    if args.save and list(args.method) == ["knn"]:
        parser.error("--save: knn has no weights to save; choose --method linear or --method attentive")
    if args.save and len(args.method) > 1:
        parser.error("--save needs a single method: add --method linear or --method attentive")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from slowfast_uniformer.distributed.launch import launch
    from slowfast_uniformer.inference.outputs import checked_output
    from slowfast_uniformer.inference.predictor import config_of

    save = checked_output(args.save, (".pyth",)) if args.save else ""
    load = load_arguments(args, "MODEL.HEAD", "linear")
    options = {"methods": args.method, "cache": args.cache, "split": args.split, "folds": args.folds}
    run = partial(run_probe, load=load, workers=args.workers, save=save, **options)
    launch(run, config_of(**load))


def run_probe(cfg: object, split: str, **options: object) -> None:
    """Fit the heads and print their table: what every process runs."""
    from slowfast_uniformer.inference.probe import probe, rows

    results = probe(cfg, split=split, **options)
    if results:
        print(table([*rows(results, split, results[0].interval is None)]))
