"""Write train.csv, val.csv, test.csv and classes.txt for a folder of videos.

    uniformer lists my_videos --out my_lists --val 0.2

FOLDER/<class>/... holds the videos of a class, at any depth. Labels follow the sorted class names, paths are relative
to FOLDER, and each class is split on its own. Where FOLDER holds train/ and val/ or test/ with class folders in them,
that split is used. Links are followed. Where no file is a video, folders of numbered images are the videos. What is
left out is counted and named.

FOLDER may hold tar files instead (webdataset: key.mp4 with key.cls or key.json). Then train and val are folders,
prefixes of the tar files' names, or fractions as above. Classes are names, or labels, which FOLDER/classes.txt may
name.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from slowfast_uniformer import paths, terminal
from slowfast_uniformer.cli.common import new_parser, parse_arguments, table
from slowfast_uniformer.data.make_lists import EXTENSIONS, make_lists, write_lists
from slowfast_uniformer.runs.log import Phase


def expanded_path(text: str) -> Path:
    return Path(paths.expand(text))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = new_parser("lists", __doc__)
    parser.add_argument("folder", type=expanded_path, help="holds a folder for each class, or tar files")
    parser.add_argument("--out", type=expanded_path, help="where to write the lists (FOLDER)")
    parser.add_argument("--val", type=float, default=0.2, help="fraction for validation (%(default)s)")
    parser.add_argument("--test", type=float, default=0.0, help="fraction for testing, 0: as val (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the split (%(default)s)")
    parser.add_argument("--separator", default=" ", help="between path and label (a space)")
    parser.add_argument("--ext", default=EXTENSIONS, help="file extensions of videos (%(default)s)")
    parser.add_argument("--force", action="store_true", help="replace existing lists")
    return parse_arguments(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with Phase(f"look for videos in {args.folder}"):
        found = make_lists(args.folder, args.val, args.test, args.seed, args.ext)
    for note in found.notes:
        print(note)
    for warning in found.warnings:
        terminal.show(f"warning: {warning}", error=True)
    out = args.out or args.folder
    write_lists(out, found, args.separator, args.force)
    rows = [[name, *(len(videos.get(name, [])) for videos in found.splits.values())] for name in found.names]
    print(table([["class", *found.splits], *rows]))
    print(f"\nDATA.PATH_TO_DATA_DIR {out}\nDATA.PATH_PREFIX {args.folder}\nMODEL.NUM_CLASSES {len(found.names)}")
    if args.separator != " ":
        print(f"DATA.PATH_LABEL_SEPARATOR {args.separator!r}")
