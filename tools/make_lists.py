"""Write train.csv, val.csv, test.csv and classes.txt for a folder of class folders.

    python tools/make_lists.py FOLDER [--out DIR] [--val 0.2] [--test 0.0] [--separator " "] [--force]

FOLDER/<class>/... holds a class's videos, at any depth. Label order is the classes' sorted names, paths are
relative to FOLDER, each class is split on its own. Where FOLDER holds train/ and val/ (and maybe test/) with
class folders in them, that is the split.

FOLDER may hold tar files instead (key.mp4 with key.cls or key.json beside it, as webdataset has them), which
are listed as they are: train and val are folders, or what tar names begin with, or shares as above. Classes
are names, or labels, which FOLDER/classes.txt may name.
"""

import argparse
import json
import random
import sys
from pathlib import Path

from common import finish

from slowfast_uniformer.data.shards import ByteRange, index
from slowfast_uniformer.errors import UserError

EXTENSIONS = "mp4,avi,mkv,webm,mov,m4v,mpg,mpeg,wmv,flv,3gp"
SPLITS = ("train", "val", "test")
Videos = dict[str, list[str]]  # class to its videos, relative to FOLDER


def subfolders(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in paths if path.is_dir() and not path.name.startswith("."))


def find_videos(root: Path, base: Path, endings: set[str]) -> Videos:
    """Sorted videos below each class folder of `base`."""
    return {
        folder.name: sorted(
            path.relative_to(root).as_posix()
            for path in folder.rglob("*")
            if path.suffix.lower() in endings and path.is_file() and not path.name.startswith(".")
        )
        for folder in subfolders(base)
    }


def shard_groups(root: Path) -> dict[str, list[Path]]:
    """The tar files of each split, or of "all" where nothing tells the split; empty without tar files."""
    groups = {split: sorted((root / split).glob("*.tar")) for split in SPLITS}
    if not any(groups.values()):
        groups = {split: sorted(root.glob(f"{split}*.tar")) for split in SPLITS}
    if groups["train"] and groups["val"]:
        return {split: tars for split, tars in groups.items() if tars}
    tars = sorted(root.glob("*.tar"))
    return {"all": tars} if tars else {}


def class_in_shard(tar: Path, key: str, inside: dict[str, tuple[int, int]]) -> str:
    """The class that key.cls or key.json (its "label", "cls" or "class") gives."""
    for name in (f"{key}.cls", f"{key}.json"):
        if name not in inside:
            continue
        with ByteRange(str(tar), *inside[name]) as file:
            text = file.read().decode("utf-8").strip()
        if name.endswith(".cls"):
            return text
        try:
            about = json.loads(text)
            return str(next(about[field] for field in ("label", "cls", "class") if field in about))
        except (ValueError, TypeError, StopIteration):
            raise UserError(f"{tar}/{name}: no JSON object with label, cls or class in it") from None
    raise UserError(f"{tar}: {key} has neither {key}.cls nor {key}.json, so its class is not known")


def find_in_shards(root: Path, tars: list[Path], endings: set[str]) -> Videos:
    """Videos of each class in tar files, with the bytes they take (slowfast_uniformer/data/shards.py)."""
    videos: Videos = {}
    for tar in tars:
        try:
            inside = index(str(tar))
        except OSError as error:
            raise UserError(f"{tar}: {error}") from None
        for name, (start, size) in inside.items():
            folder, slash, file = name.rpartition("/")
            key, _, ending = file.partition(".")
            if f".{ending.lower()}" in endings:
                name_of_class = class_in_shard(tar, folder + slash + key, inside)
                path = f"{tar.relative_to(root).as_posix()}/{name}@{start}+{size}"
                videos.setdefault(name_of_class, []).append(path)
    return videos


def collect_shards(root: Path, args: argparse.Namespace, endings: set[str]) -> tuple[list[str], dict[str, Videos]]:
    """`collect` for a folder of tar files. Where classes are labels, all keep their numbers."""
    found = {split: find_in_shards(root, tars, endings) for split, tars in shard_groups(root).items()}
    lists = split_folder(found["all"], args) if "all" in found else {**found, "test": found.get("test", found["val"])}
    names = sorted({name for videos in lists.values() for name in videos})
    if not all(name.isdecimal() for name in names):
        return names, lists
    count = max((int(name) + 1 for name in names), default=0)
    file = root / "classes.txt"
    given = file.read_text(encoding="utf-8").splitlines() if file.is_file() else [str(k) for k in range(count)]
    if len(given) < count:
        raise UserError(f"{file}: {len(given)} classes, but the tar files have label {count - 1}")
    named = {split: {given[int(k)]: paths for k, paths in videos.items()} for split, videos in lists.items()}
    return given, named


def split_class(videos: list[str], shares: tuple[float, float], rng: random.Random) -> list[list[str]]:
    """Training, validation, test videos of a class; training keeps one, then shares above 0 get one each."""
    shuffled, parts = rng.sample(videos, len(videos)), []
    for share in shares:
        count = min(len(shuffled) - 1, max(1, round(share * len(videos)))) if share and shuffled else 0
        parts.append(sorted(shuffled[:count]))
        shuffled = shuffled[count:]
    return [sorted(shuffled), *parts]


def split_folder(videos: Videos, args: argparse.Namespace) -> dict[str, Videos]:
    """The split of plain class folders; without a test share the test list is the validation list."""
    if not (0 < args.val and 0 <= args.test and args.val + args.test < 1):
        raise UserError(f"--val {args.val} --test {args.test}: val above 0, test 0 or more, together below 1")
    lists: dict[str, Videos] = {split: {} for split in SPLITS}
    for name, files in videos.items():
        parts = split_class(files, (args.val, args.test), random.Random(f"{args.seed} {name}"))
        lists["train"][name], lists["val"][name] = parts[:2]
        lists["test"][name] = parts[2 if args.test else 1]
    return lists


def collect_folders(root: Path, args: argparse.Namespace, endings: set[str]) -> tuple[list[str], dict[str, Videos]]:
    """`collect` for a folder of class folders; a class without videos is left out."""
    if subfolders(root / "train") and subfolders(root / "val"):
        print("train/ and val/ hold class folders: this is the split (--val, --test and --seed do not apply)")
        folders = ("train", "val", "test" if subfolders(root / "test") else "val")
        pairs = zip(SPLITS, folders, strict=True)
        lists = {split: find_videos(root, root / at, endings) for split, at in pairs}
    else:
        lists = split_folder(find_videos(root, root, endings), args)
    names = sorted({name for videos in lists.values() for name in videos})
    if not names:
        raise UserError(f"{root}: no class folders in it; put each class's videos in a folder of its name")
    for name in [name for name in names if not any(videos.get(name) for videos in lists.values())]:
        print(f"warning: {name}: no videos in this class folder, left out", file=sys.stderr)
        names.remove(name)
    return names, lists


def collect(root: Path, args: argparse.Namespace) -> tuple[list[str], dict[str, Videos]]:
    """Class names in label order and each split's videos."""
    endings = {"." + ending.strip().lower().lstrip(".") for ending in args.ext.split(",")}
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder that holds one folder for each class")
    in_tars = bool(shard_groups(root))
    names, lists = (collect_shards if in_tars else collect_folders)(root, args, endings)
    if not names:
        where = "tar files" if in_tars else "class folders"
        raise UserError(f"{root}: no videos ({args.ext}) in its {where}; name other endings with --ext")
    for split, videos in lists.items():
        if not any(videos.values()):
            raise UserError(f"{root}: no videos for {split}; a class needs one for each part")
        if lacking := [name for name in names if not videos.get(name)]:
            print(f"warning: {split} has no video of {', '.join(lacking)}", file=sys.stderr)
    return names, lists


def write_lists(out: Path, names: list[str], lists: dict[str, Videos], separator: str, force: bool) -> None:
    """Write the four files, all under temporary names first; UserError leaves the folder as it was.

    A path may contain the separator: lists are read from the end of the line.
    """
    texts = {"classes.txt": "".join(f"{name}\n" for name in names)}
    for split, videos in lists.items():
        rows = [(path, label) for label, name in enumerate(names) for path in videos.get(name, [])]
        texts[f"{split}.csv"] = "".join(f"{path}{separator}{label}\n" for path, label in rows)
    there = [name for name in texts if (out / name).exists()]
    if there and not force:
        raise UserError(f"{out} has {', '.join(there)} already; --force replaces, --out names another place")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (out / f"{name}.tmp").write_text(text, encoding="utf-8")
        for name in texts:
            (out / f"{name}.tmp").replace(out / name)
    except (OSError, UnicodeError) as error:
        raise UserError(f"{out}: cannot write the lists ({error}); choose another --out") from None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write lists for a folder of class folders, or of tars.")
    parser.add_argument("folder", type=Path, help="holds a folder for each class, or tar files")
    parser.add_argument("--out", type=Path, help="where the lists go (default: FOLDER)")
    parser.add_argument("--val", type=float, default=0.2, help="validation's share (%(default)s)")
    parser.add_argument("--test", type=float, default=0.0, help="test's share, 0: as val (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--separator", default=" ", help="between path and label (default: a space)")
    parser.add_argument("--ext", default=EXTENSIONS, help="file name endings of videos (%(default)s)")
    parser.add_argument("--force", action="store_true", help="replace lists that are there already")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    names, lists = collect(args.folder, args)
    write_lists(args.out or args.folder, names, lists, args.separator, args.force)
    width = max(map(len, [*names, "class"]))
    print(f"{'class':{width}}  " + "  ".join(f"{split:>6}" for split in lists))
    for name in names:
        print(f"{name:{width}}  " + "  ".join(f"{len(videos.get(name, [])):6}" for videos in lists.values()))
    print(f"\nDATA.PATH_TO_DATA_DIR {args.out or args.folder}\nDATA.PATH_PREFIX {args.folder}")
    print(f"MODEL.NUM_CLASSES {len(names)}")
    if args.separator != " ":
        print(f"DATA.PATH_LABEL_SEPARATOR {args.separator!r}")


if __name__ == "__main__":
    finish(main)
