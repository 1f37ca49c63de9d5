r"""Show a page on which people drop a video to see what it shows.

    python tools/demo_app.py --checkpoint runs/demo [--host 127.0.0.1] [--port 7860]

The five most probable classes, of videos of more than 10 s a timeline, and where the model looks; one video
at a time is answered. Needs Gradio: pip install 'slowfast_uniformer[app]'. The page asks nobody on the
network for anything, and only this machine can reach it unless --host says otherwise. What it writes is in a
temporary folder, which is removed at the end (Ctrl-C or SIGTERM). docs/demo_app.md says more.
"""

import argparse

from common import finish, model_parser, parse, the_model

from slowfast_uniformer.inference.web_app import serve


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = model_parser(__doc__, videos=False)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="(%(default)s)")
    parser.add_argument("--max-mb", type=int, default=200, help="megabytes of a video (%(default)s)")
    parser.add_argument("--max-seconds", type=float, default=300, help="length of a video (%(default)s)")
    args = parse(parser, argv)
    if args.max_mb < 1 or args.max_seconds <= 0:
        parser.error("--max-mb and --max-seconds are 1 or more")
    return args


def main() -> None:
    args = parse_args()
    serve(the_model(args), args.host, args.port, args.max_mb, args.max_seconds)


if __name__ == "__main__":
    finish(main)
