r"""Give a trained model away: a folder without pickles, or its upload to the Hugging Face hub.

    uniformer publish runs/demo published/demo --license apache-2.0 --data-description "240 rendered videos"
    uniformer publish runs/demo hf://USER/NAME --license apache-2.0 [--private]
    uniformer publish published/demo hf://USER/NAME

The folder has model.safetensors, config.yaml, classes.txt, metrics.json and README.md (the model card). Commands read
it as --checkpoint FOLDER or hf://USER/NAME, Python as load_model("FOLDER"). Of a run's folder the checkpoint is taken
that its test takes: the latest, or with TEST.TEST_BEST the best. Figures are those that the run has recorded of it.
"""

import argparse
from collections.abc import Sequence

from slowfast_uniformer import paths
from slowfast_uniformer.cli.common import new_parser, parse_arguments


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = new_parser("publish", __doc__, "RUN OUT_DIR|hf://USER/NAME --license ID")
    add = parser.add_argument
    help_text = "a run's folder, a checkpoint or file of weights, or a published folder that is uploaded as it is"
    add("run", type=paths.expand, metavar="RUN", help=help_text)
    add("target", type=paths.expand, metavar="OUT_DIR", help="the folder to make, or hf://USER/NAME")
    add("--license", metavar="ID", help="the licence under which the model is given away, such as apache-2.0")
    add("--data-description", default="", metavar="TEXT", help="what the model card says of the data (Markdown)")
    help_text = "a folder in which a test of this checkpoint is recorded, besides the run's own; repeatable"
    add("--figures", action="append", default=[], type=paths.expand, metavar="FOLDER", help=help_text)
    add("--private", action="store_true", help="make the repository of the hub a private one")
    add("--force", action="store_true", help="replace a folder or repository that holds something else")
    help_text = "the config of weights that carry none, a file or a recipe; repeatable"
    add("--cfg", action="append", default=[], dest="configs", type=paths.expand, metavar="FILE.yaml", help=help_text)
    help_text = "override a config key; repeatable"
    add("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help=help_text)
    add("--allow-import", action="store_true", help="import the module that the config names (MODEL.IMPORT)")
    return parse_arguments(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from slowfast_uniformer.inference.publish_checks import check_arguments

    check_arguments(args.run, args.target, args.license, args.private, args.force)  # before PyTorch is loaded
    from slowfast_uniformer.inference.publish import publish

    lines = publish(
        args.run,
        args.target,
        args.license,
        data=args.data_description,
        figures=args.figures,
        private=args.private,
        force=args.force,
        cfg=args.configs,
        overrides=[word for pair in args.set for word in pair],
        allow_import=args.allow_import,
    )
    print("\n".join(lines))
