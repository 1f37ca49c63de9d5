"""Train, val and test lists for a folder of class folders, or of tar files (webdataset)."""

import json
import random
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from slowfast_uniformer.data.shards import ByteRange, index
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_path

EXTENSIONS = "mp4,avi,mkv,webm,mov,m4v,mpg,mpeg,wmv,flv,3gp"
SPLITS = ("train", "val", "test")
Videos = dict[str, list[str]]  # class name to its videos, relative to the folder


class Lists(NamedTuple):
    """What lists are written from.

    Attributes:
        names: Class names in label order.
        splits: The videos of each split (train, val, test).
        is_given_split: Whether the split is that of folders train/ and val/.
        warnings: On classes without videos.
    """

    names: list[str]
    splits: dict[str, Videos]
    is_given_split: bool
    warnings: list[str]


def make_lists(root: Path, val: float = 0.2, test: float = 0.0, seed: int = 0, extensions: str = EXTENSIONS) -> Lists:
    """Find the videos below `root` and split them.

    Folders train/ and val/ (and maybe test/) with class folders in them, or tar files named so, are the split. Else
    each class is split on its own, by a generator seeded with its name, so that classes do not affect each other.

    Args:
        root: Folder of class folders, or of tar files.
        val: Fraction of a class's videos for validation, above 0.
        test: Fraction for testing; 0 tests on the validation videos.
        seed: Seed of the split.
        extensions: File extensions of videos, separated by commas.

    Raises:
        UserError: There is no such folder, no video, or a split would be empty.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder that holds one folder for each class")
    endings = {"." + ending.strip().lower().lstrip(".") for ending in extensions.split(",")}
    tars = _tar_files(root)
    if tars:
        found = {split: _videos_in_tars(root, files, endings) for split, files in tars.items()}
    else:
        is_split = _subfolders(root / "train") and _subfolders(root / "val")
        folders = {split: root / split for split in SPLITS if _subfolders(root / split)} if is_split else {"all": root}
        found = {split: _videos_in_folders(root, folder, endings) for split, folder in folders.items()}
    is_given_split = "all" not in found
    splits = found if is_given_split else split_classes(found["all"], val, test, seed)
    splits = splits | {"test": splits.get("test", splits["val"])}
    names = sorted({name for videos in splits.values() for name in videos})
    warnings = []
    if tars:
        names, splits = _name_labels(root, names, splits)
    elif not names:
        raise UserError(f"{root}: no class folders in it; put each class's videos in a folder of its name")
    else:
        empty = [name for name in names if not any(videos.get(name) for videos in splits.values())]
        warnings = [f"{name}: no videos in this class folder, left out" for name in empty]
        names = [name for name in names if name not in empty]
    if not names:
        where = "tar files" if tars else "class folders"
        raise UserError(f"{root}: no videos ({extensions}) in its {where}; name other extensions with --ext")
    for split, videos in splits.items():
        if not any(videos.values()):
            raise UserError(f"{root}: no videos for {split}; a class needs one for each split")
        if missing := [name for name in names if not videos.get(name)]:
            warnings.append(f"{split} has no video of {', '.join(missing)}")
    return Lists(names, splits, is_given_split and not tars, warnings)


def split_classes(videos: Videos, val: float, test: float, seed: int) -> dict[str, Videos]:
    """Split each class by fractions; without one for testing there is no test split."""
    if not (0 < val and 0 <= test and val + test < 1):
        raise UserError(f"--val {val} --test {test}: val above 0, test 0 or more, together below 1")
    splits: dict[str, Videos] = {split: {} for split in SPLITS}
    for name, paths in videos.items():
        remaining = random.Random(f"{seed} {name}").sample(paths, len(paths))
        for split, fraction in (("val", val), ("test", test)):
            # training keeps a video; then fractions above 0 get one at least
            count = min(len(remaining) - 1, max(1, round(fraction * len(paths)))) if fraction and remaining else 0
            splits[split][name] = sorted(remaining[:count])
            remaining = remaining[count:]
        splits["train"][name] = sorted(remaining)
    return splits if test else {"train": splits["train"], "val": splits["val"]}


def write_lists(out: Path, lists: Lists, separator: str = " ", force: bool = False) -> None:
    """Write classes.txt, train.csv, val.csv and test.csv, all or none.

    A path may contain the separator: lists are read from the end of the line.

    Raises:
        UserError: Files are there already and may not be replaced (`force`), or cannot be written.
    """
    texts = {"classes.txt": "".join(f"{name}\n" for name in lists.names)}
    for split, videos in lists.splits.items():
        rows = [(path, label) for label, name in enumerate(lists.names) for path in videos.get(name, [])]
        texts[f"{split}.csv"] = "".join(f"{path}{separator}{label}\n" for path, label in rows)
    existing = [name for name in texts if (out / name).exists()]
    if existing and not force:
        raise UserError(f"{out} has {', '.join(existing)} already; --force replaces, --out names another folder")
    try:
        with ExitStack() as stack:  # all are written before the first one is replaced
            for name, text in texts.items():
                Path(stack.enter_context(atomic_path(out / name))).write_text(text, encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UserError(f"{out}: cannot write the lists ({error}); choose another --out") from None


# ---------------------------------------------------------------------------------------------------- class folders
def _subfolders(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in paths if path.is_dir() and not path.name.startswith("."))


def _videos_in_folders(root: Path, base: Path, endings: set[str]) -> Videos:
    """Sorted videos at any depth below each class folder of `base`."""
    return {
        folder.name: sorted(
            path.relative_to(root).as_posix()
            for path in folder.rglob("*")
            if path.suffix.lower() in endings and path.is_file() and not path.name.startswith(".")
        )
        for folder in _subfolders(base)
    }


# -------------------------------------------------------------------------------------------------------- tar files
def _tar_files(root: Path) -> dict[str, list[Path]]:
    """The tar files of each split, or of "all" where their names give no split; empty without tar files."""
    groups = {split: sorted((root / split).glob("*.tar")) for split in SPLITS}
    if not any(groups.values()):
        groups = {split: sorted(root.glob(f"{split}*.tar")) for split in SPLITS}
    if groups["train"] and groups["val"]:
        return {split: tars for split, tars in groups.items() if tars}
    tars = sorted(root.glob("*.tar"))
    return {"all": tars} if tars else {}


def _videos_in_tars(root: Path, tars: list[Path], endings: set[str]) -> Videos:
    """Videos of each class in tar files, with their byte ranges (data/shards.py)."""
    videos: Videos = {}
    for tar in tars:
        try:
            members = index(str(tar))
        except OSError as error:
            raise UserError(f"{tar}: {error}") from None
        for name, (start, size) in members.items():
            folder, slash, file = name.rpartition("/")
            key, _, ending = file.partition(".")
            if f".{ending.lower()}" in endings:
                class_name = _class_of(tar, folder + slash + key, members)
                path = f"{tar.relative_to(root).as_posix()}/{name}@{start}+{size}"
                videos.setdefault(class_name, []).append(path)
    return videos


def _class_of(tar: Path, key: str, members: dict[str, tuple[int, int]]) -> str:
    """The class that key.cls or key.json (its "label", "cls" or "class") gives."""
    for name in (f"{key}.cls", f"{key}.json"):
        if name not in members:
            continue
        with ByteRange(str(tar), *members[name]) as file:
            text = file.read().decode("utf-8").strip()
        if name.endswith(".cls"):
            return text
        try:
            content = json.loads(text)
            return str(next(content[field] for field in ("label", "cls", "class") if field in content))
        except (ValueError, TypeError, StopIteration):
            raise UserError(f"{tar}/{name}: no JSON object with label, cls or class in it") from None
    raise UserError(f"{tar}: {key} has neither {key}.cls nor {key}.json, so its class is not known")


def _name_labels(root: Path, names: list[str], splits: dict[str, Videos]) -> tuple[list[str], dict[str, Videos]]:
    """Where the classes of tar files are labels, the names that classes.txt gives; all labels keep their numbers."""
    if not all(name.isdecimal() for name in names):
        return names, splits
    count = max((int(name) + 1 for name in names), default=0)
    file = root / "classes.txt"
    given = file.read_text(encoding="utf-8").splitlines() if file.is_file() else [str(k) for k in range(count)]
    if len(given) < count:
        raise UserError(f"{file}: {len(given)} classes, but the tar files have label {count - 1}")
    return given, {
        split: {given[int(label)]: paths for label, paths in videos.items()} for split, videos in splits.items()
    }
