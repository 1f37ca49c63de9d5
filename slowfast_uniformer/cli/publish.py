r"""Publish a trained model: as a folder, or on the Hugging Face hub.

    uniformer publish runs/demo published/demo --license apache-2.0 \
        --data-description "240 rendered videos"
    uniformer publish runs/demo hf://USER/NAME --license apache-2.0
    uniformer publish published/demo hf://USER/NAME

The folder has model.safetensors, config.yaml, classes.txt, metrics.json and README.md (the model card), and no pickles.
Commands read it as --checkpoint FOLDER or hf://USER/NAME, Python as load_model("FOLDER"). Of a run's folder it has the
checkpoint that the run's own test takes: the latest, or the best where its config.yaml sets TEST.TEST_BEST. Its figures
are those that the run has recorded of this checkpoint.
"""

import argparse
from collections.abc import Sequence

from slowfast_uniformer import paths
from slowfast_uniformer.cli.common import ALLOW_IMPORT, SET, new_parser, parse_arguments


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = new_parser("publish", __doc__, "RUN OUT_DIR|hf://USER/NAME --license ID")
    add = parser.add_argument
    help_text = "a run's folder, a checkpoint or weights file, or a published folder, which is uploaded as it is"
    add("run", type=paths.expand, metavar="RUN", help=help_text)
    add("target", type=paths.expand, metavar="OUT_DIR", help="folder to write, or hf://USER/NAME to upload to")
    add("--license", metavar="ID", help="licence of the model, such as apache-2.0; needed unless RUN is published")
    add("--data-description", default="", metavar="TEXT", help="what the model card says of the data (Markdown)")
    help_text = "add the test results of this checkpoint in this folder to the run's own; repeatable"
    add("--figures", action="append", default=[], type=paths.expand, metavar="FOLDER", help=help_text)
    add("--private", action="store_true", help="make a new repository of the hub private")
    add("--force", action="store_true", help="replace a folder or repository that holds something else")
    add = parser.add_argument_group("config and loading").add_argument
    help_text = "recipe name or YAML file, for weights that carry no config; repeatable"
    add("--cfg", action="append", default=[], dest="configs", type=paths.expand, metavar="CONFIG", help=help_text)
    add("--set", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help=SET)
    add("--allow-import", action="store_true", help=ALLOW_IMPORT)
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
