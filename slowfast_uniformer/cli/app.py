"""Serve a web page that classifies uploaded videos.

    uniformer app --checkpoint runs/demo

The page shows the five most probable classes, a timeline of videos longer than 10 s, and where the model looks. It
makes no requests to other hosts, and only this machine can reach it unless --host says otherwise. docs/demo_app.md has
the details. The page needs Gradio:

    pip install 'slowfast_uniformer[app]'
"""

import argparse
from collections.abc import Sequence

from slowfast_uniformer.cli.common import load_predictor, model_parser, parse_model_arguments, positive


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = model_parser("app", __doc__, videos=False)
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on; 0.0.0.0 for all networks")
    add("--port", type=int, default=7860, metavar="N", help="port to listen on")
    add("--max-mb", type=positive(int), default=200, metavar="MB", help="size of the largest upload")
    add("--max-seconds", type=positive(float), default=300, metavar="SECONDS", help="length of the longest video")
    return parse_model_arguments(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from slowfast_uniformer.inference.web_app import serve

    serve(load_predictor(args), args.host, args.port, args.max_mb, args.max_seconds)
