"""Serve a web page that classifies uploaded videos.

    uniformer app --checkpoint runs/demo [--host 127.0.0.1] [--port 7860]

The page shows the five most probable classes, a timeline of videos longer than 10 s, and where the model looks. Needs
Gradio: pip install 'slowfast_uniformer[app]'. The page makes no requests to other hosts, and only this machine can
reach it unless --host says otherwise. docs/demo_app.md has the details.
"""

import argparse
from collections.abc import Sequence

from slowfast_uniformer.cli.common import load_predictor, model_parser, parse_model_arguments, positive


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = model_parser("app", __doc__, videos=False)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="(%(default)s)")
    parser.add_argument("--max-mb", type=positive(int), default=200, help="largest upload in MB (%(default)s)")
    parser.add_argument("--max-seconds", type=positive(float), default=300, help="longest video (%(default)s)")
    return parse_model_arguments(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    from slowfast_uniformer.inference.web_app import serve

    serve(load_predictor(args), args.host, args.port, args.max_mb, args.max_seconds)
