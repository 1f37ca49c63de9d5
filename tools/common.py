"""What commands share: the arguments of those for a trained model, and how an error ends all of them."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from slowfast_uniformer.distributed import signals
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.inputs import after_cfg

if TYPE_CHECKING:
    from slowfast_uniformer.inference.predictor import Predictor


def model_parser(description: str, videos: bool = True) -> argparse.ArgumentParser:
    """A parser with the model's arguments and, unless told otherwise, `videos`."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] --checkpoint FILE" + (" VIDEO|FOLDER|LIST [...]" if videos else ""),
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE", help="a checkpoint, a run's folder, or a file of weights"
    )
    parser.add_argument(
        "--cfg",
        nargs="+",
        default=[],
        metavar="FILE.yaml",
        help="config files (a run's checkpoint carries its own), and KEY VALUE pairs after them",
    )
    parser.add_argument(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        help="override a key of the config; repeatable",
    )
    if videos:
        parser.add_argument("videos", nargs="*", metavar="VIDEO", help="video files, folders, or lists")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments with `cfg` the YAML files and `overrides` the KEY VALUE pairs; videos may follow either."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_intermixed_args(words[:end])
    args.cfg, args.overrides, rest = after_cfg(args.cfg)
    args.overrides += [word for pair in args.set for word in pair]
    if "videos" in args:
        args.videos = [*rest, *args.videos, *words[end + 1 :]]
        if not args.videos:
            parser.error("no VIDEO, FOLDER or LIST is given (write -- before one whose name begins with -)")
    elif rest := rest + words[end:]:
        parser.error(f"{rest[0]!r} is neither a YAML file nor a KEY with its VALUE")
    return args


def the_model(args: argparse.Namespace) -> "Predictor":
    from slowfast_uniformer.inference.predictor import load_model

    return load_model(args.checkpoint, args.cfg, args.overrides)


def finish(command: Callable[[], int | None]) -> None:
    """Run a command, and end with its status unless all is well: 2 and one line for bad input, 75 where a
    signal has stopped what the same command continues."""
    try:
        if status := command():
            sys.exit(status)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except signals.Interrupted:
        print("interrupted; the same command continues", file=sys.stderr)
        sys.exit(signals.EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has enough
        sys.stderr.close()
        sys.exit(141)
