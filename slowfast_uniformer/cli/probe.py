"""Fit heads to the features of a frozen model: nearest neighbours, logistic regression, attention.

    uniformer probe --checkpoint k400/uniformer_s --set MODEL.NUM_CLASSES 7 --set DATA.PATH_TO_DATA_DIR data/mine
    uniformer probe --init-from WEIGHTS --cfg FILE.yaml [KEY VALUE ...] --method linear --save OUT.pyth

The model's features of the videos in the train and val list are stored once (OUTPUT_DIR/probe). Then heads are fitted
to those of the train list, with settings that cross-validation chooses, and tested on the val list. After an
interruption the same command continues. docs/probe.md has an example.
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
    add("--method", nargs="+", choices=METHODS, default=METHODS, help="one or more of knn, linear, attentive (all)")
    add("--split", choices=("val", "test"), default="val", help="the list to test on (%(default)s)")
    add("--folds", type=int, default=5, help="of the cross-validation on the train list (%(default)s)")
    add("--cache", type=paths.expand, default="", metavar="FOLDER", help="of the stored features (OUTPUT_DIR/probe)")
    add("--workers", type=int, default=2, help="DataLoader workers of each process (%(default)s)")
    help_text = "write the model with its new head as a checkpoint; with a single --method, linear or attentive"
    add("--save", type=paths.expand, default="", metavar="OUT.pyth", help=help_text)
    args = parse_model_arguments(parser, argv)
    if args.workers < 0:
        parser.error("--workers: 0 or more")
    if args.folds < 2:
        parser.error("--folds: 2 or more")
    if args.save and list(args.method) == ["knn"]:
        parser.error("--save: knn has no weights that a model could have; use --method linear or attentive")
    if args.save and len(args.method) > 1:
        parser.error("--save: name one method, --method linear or --method attentive")
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
