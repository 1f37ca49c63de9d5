r"""Write train, val and test lists for a folder of videos.

    uniformer lists my_videos --out my_lists --val 0.2
    uniformer lists my_videos --out my_lists --folds 5 \
        --group-by 'person[0-9]+'
    uniformer lists recordings --annotations events.csv --out my_lists \
        --background 1.0

Writes train.csv, val.csv, test.csv and classes.txt, and prints the config keys for them. FOLDER/CLASS/... holds the
videos of a class, at any depth. Labels follow the sorted class names, paths are relative to FOLDER, and each class is
split on its own. If FOLDER holds train/ and val/ or test/ with class folders in them, that split is used. Links are
followed. If no file is a video, folders of numbered images are the videos. What is left out is counted and named.

FOLDER may hold tar files instead (webdataset: key.mp4 with key.cls or key.json). Then train and val are folders,
prefixes of the tar files' names, or fractions as above. FOLDER/classes.txt may name the classes.

With --annotations the lists are of events in the videos of FOLDER: a table with the columns video, start, end (in
seconds) and label, events that BORIS has exported, ELAN's .eaf, or a JSON file as ActivityNet's. A table without start
and end has a label for each whole video. All events of a video are on one side of the split.

With --group-by all videos of a person, a recording or a day are on one side. --folds N writes N folders with lists,
which `uniformer train --folds` trains on one after the other.
"""

import argparse
from collections.abc import Collection, Sequence
from itertools import compress
from pathlib import Path

from slowfast_uniformer import paths, terminal
from slowfast_uniformer.cli.common import new_parser, parse_arguments, table
from slowfast_uniformer.data import event_lists, splits
from slowfast_uniformer.data.make_lists import EXTENSIONS, SPLITS, list_texts, make_lists, write_lists, write_texts
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.folds import fold_folders
from slowfast_uniformer.runs.log import Phase

MOST_COLUMNS = 10  # folds that a table shows


def expanded_path(text: str) -> Path:
    return Path(paths.expand(text))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = new_parser("lists", __doc__, "FOLDER", takes_config=False)
    add = parser.add_argument
    add("folder", type=expanded_path, metavar="FOLDER", help="folder of class folders, tar files, or long videos")
    add("--out", type=expanded_path, metavar="FOLDER", help="where to write the lists (default: the folder of videos)")
    add("--force", action="store_true", help="replace existing lists")
    help_text = (
        f"comma-separated file extensions of videos (default: {len(EXTENSIONS.split(','))}, such as mp4,mkv,avi)"
    )
    add("--ext", default=EXTENSIONS, metavar="EXT,...", help=help_text)
    add("--separator", default=" ", metavar="TEXT", help="text between path and label in a line (default: a space)")
    help_text = "leave out videos whose path or name matches, such as '*/broken_*'; repeatable"
    add("--exclude", action="append", default=[], metavar="PATTERN", help=help_text)
    add = parser.add_argument_group("split").add_argument
    add("--val", type=float, default=0.2, metavar="FRACTION", help="fraction for validation; 0: train on all videos")
    help_text = "fraction for testing (default: 0, test.csv is val.csv)"
    add("--test", type=float, default=0.0, metavar="FRACTION", help=help_text)
    help_text = (
        "keep videos together that have the same value in this column of the annotations, or the same match of this "
        "regular expression in their path below FOLDER, with or without the ending"
    )
    add("--group-by", default="", metavar="COLUMN|REGEX", help=help_text)
    add("--folds", type=int, default=0, metavar="N", help="write N folds for cross-validation (default: one split)")
    help_text = "keep the split of the lists in this folder, and number the classes by the folders of the videos"
    add("--relabel", type=expanded_path, metavar="LISTS", help=help_text)
    add("--seed", type=int, default=0, metavar="N", help="random seed of the split")
    add = parser.add_argument_group("annotations").add_argument
    help_text = "read events from these files: tables, or exports of BORIS, ELAN or ActivityNet"
    add("--annotations", nargs="+", type=paths.expand, default=[], metavar="FILE", help=help_text)
    help_text = "read only these tiers of ELAN files (default: all)"
    add("--tier", nargs="+", default=[], metavar="TIER", help=help_text)
    help_text = "add background segments from between the events, this many seconds per second of event"
    add("--background", type=float, default=0.0, metavar="RATIO", help=help_text)
    return parse_arguments(parser, argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    out = args.out or args.folder
    if args.relabel:
        from slowfast_uniformer.data.relabel import relabelled

        others = ("annotations", "group_by", "folds", "exclude", "tier", "background")
        if given := ["--" + name.replace("_", "-") for name in others if getattr(args, name)]:
            raise UserError(f"--relabel keeps the videos and the split of the lists; leave {', '.join(given)} out")
        names, split = relabelled(args.relabel, args.folder)
        write_items(args, out, names, [], split)
        return
    if args.annotations or args.group_by or args.folds:
        write_items(args, out, *find_items(args))
        return
    if args.tier or args.background:
        raise UserError("--tier and --background are for lists of events: name the files of these with --annotations")
    with Phase(f"look for videos in {args.folder}"):
        found = make_lists(args.folder, args.val, args.test, args.seed, args.ext, args.exclude)
    show(found.notes, found.warnings)
    write_lists(out, found, args.separator, args.force)
    rows = [[name, *(len(videos.get(name, [])) for videos in found.splits.values())] for name in found.names]
    print(table([["class", *found.splits], *rows]))
    show(*splits.split_notes(found.item_split(), found.given))
    print_keys(args, out, found.names, found.splits)


def find_items(args: argparse.Namespace) -> tuple[list[str], list[splits.Item], splits.Split]:
    """Class names and items with their groups; and the split that the annotations give, which may be none."""
    given: splits.Split = {}
    with Phase(f"look for videos in {args.folder}"):
        if args.annotations:
            options = args.tier, args.group_by, args.background, args.seed
            found = event_lists.find_events(args.folder, args.annotations, *options)
            names, warnings = found.names, found.warnings
            kept = [not splits.is_excluded(item.path, args.exclude) for item in found.items]
            items = list(compress(found.items, kept))
            warnings = [
                *warnings,
                *[f"left out, --exclude: {kept.count(False)} of {len(kept)} lines"] * (not all(kept)),
            ]
            if not args.group_by and not args.folds and {"train", "val"} <= {*found.subsets} <= {*SPLITS}:
                given = {name: [] for name in ("train", "val", *["test"] * ("test" in found.subsets))}
                for item, subset in zip(items, compress(found.subsets, kept), strict=True):
                    given[subset].append(item)
                given.setdefault("test", given["val"])
        else:
            lists = make_lists(args.folder, seed=args.seed, extensions=args.ext, exclude=args.exclude)
            names, items, warnings = lists.names, lists.items(), lists.warnings
            if lists.given:
                raise UserError(
                    f"{args.folder} is split already, into train and val or test, which --group-by and --folds would "
                    "undo; give a folder of class folders"
                )
    if not items:
        raise UserError(f"--exclude leaves no video of {args.folder}; give narrower patterns")
    show(["the annotations have a split, which is kept (--val and --test do not apply)"] * bool(given), warnings)
    if args.group_by and not any(item.group for item in items):
        items = splits.with_groups(items, args.group_by)
    if without := next((item for item in items if args.group_by and not item.group), None):
        raise UserError(f"--group-by {args.group_by}: the column is empty for an event of {without.path}; fill it in")
    if len({item.path for item in items}) == 1 and not given:
        show([], [f"all events are in one video, {items[0].path}: the scores are of a video that was trained on"])
    return names, items, given


def write_items(
    args: argparse.Namespace, out: Path, names: list[str], items: list[splits.Item], given: splits.Split
) -> None:
    """Split the items and write their lists, or those of folds."""
    if args.folds:
        folds = splits.make_folds(items, args.folds, args.val, args.seed)
        show([], splits.few_of(items, args.folds))
        texts = {}
        for number, split in enumerate(folds, 1):
            texts |= list_texts(names, split, args.separator, f"fold_{number}/")
        if stale := fold_folders(str(out))[args.folds :]:
            raise UserError(f"{out} has more folds from before ({stale[0]}); remove them, or choose another --out")
        head, columns = [f"fold {number}" for number in range(1, len(folds) + 1)], [split["test"] for split in folds]
    else:
        split = given or splits.split_items(items, args.val, args.test, args.seed)
        texts = list_texts(names, split, args.separator)
        head, columns = list(split), list(split.values())
        for name, part in split.items():
            if missing := [label for label in names if label not in {item.label for item in part}]:
                show([], [f"{name} has no video of {', '.join(missing)}"])
    write_texts(out, texts, args.force)
    counts = [[label, *(sum(item.label == label for item in part) for part in columns)] for label in names]
    if len(columns) > MOST_COLUMNS:
        head = ["all folds", "fewest in a fold", "most in a fold"]
        counts = [[label, sum(row), min(row), max(row)] for label, *row in counts]
    print(table([["class", *head], *counts]))
    if args.folds:
        sizes = {name: [len(fold[name]) for fold in folds] for name in SPLITS if name in folds[0]}
        ranges = {name: " to ".join(map(str, dict.fromkeys((min(of), max(of))))) for name, of in sizes.items()}
        shown = ", ".join(f"{name} {count}" for name, count in ranges.items())
        print(f"These are the test videos of each fold. Videos of a fold: {shown}")
    else:
        show(*splits.split_notes(split, bool(given)))
    print_keys(args, out, names, folds[0] if args.folds else split)
    if args.folds:
        print(
            f"\nEach of the {args.folds} folds is the test list of one run; `uniformer train --folds` trains them all"
        )


def show(notes: Sequence[str], warnings: Sequence[str]) -> None:
    for note in notes:
        print(note)
    for warning in warnings:
        terminal.show(f"warning: {warning}", error=True)


def print_keys(args: argparse.Namespace, out: Path, names: Sequence[str], splits: Collection[str]) -> None:
    """The keys of a config that uses the lists."""
    print("\nTo train on these lists, set")
    print(f"DATA.PATH_TO_DATA_DIR {out}\nDATA.PATH_PREFIX {args.folder}\nMODEL.NUM_CLASSES {len(names)}")
    if args.separator != " ":
        print(f"DATA.PATH_LABEL_SEPARATOR {args.separator!r}")
    if "val" not in splits:
        print("TRAIN.EVAL_PERIOD 0")
    if "test" not in splits:
        print("TEST.ENABLE False")
