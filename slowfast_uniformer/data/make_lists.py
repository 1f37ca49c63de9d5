"""Train, val and test lists for a folder of class folders, or of tar files (webdataset)."""

import json
import os
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from slowfast_uniformer.data import folders
from slowfast_uniformer.data.classes import read_class_names
from slowfast_uniformer.data.list_text import SPACES
from slowfast_uniformer.data.shards import ByteRange, index
from slowfast_uniformer.data.splits import Item, Split, is_excluded, list_text
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_path
from slowfast_uniformer.wording import counted

EXTENSIONS = ",".join(sorted(ending[1:] for ending in folders.VIDEO_ENDINGS))
SPLITS = ("train", "val", "test")
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
WRITTEN = {"classes.txt", *(f"{split}.csv" for split in SPLITS)}
SIDECARS = {".cls", ".json", ".txt"}  # of a webdataset, beside its videos
Videos = dict[str, list[str]]  # class name to its videos, relative to the folder


class Lists(NamedTuple):
    """What lists are written from.

    Attributes:
        names: Class names in label order.
        splits: The videos of each split (train, val, test).
        notes: On what was found, such as a ready split.
        warnings: On what is left out.
        given: Whether the folder has a split of its own.
    """

    names: list[str]
    splits: dict[str, Videos]
    notes: list[str]
    warnings: list[str]
    given: bool = False

    def item_split(self) -> Split:
        """The split as items."""
        return {
            split: [Item(path, name) for name in self.names for path in videos.get(name, [])]
            for split, videos in self.splits.items()
        }

    def items(self) -> list[Item]:
        """All videos, without the split."""
        different = {id(videos): videos for videos in self.splits.values()}.values()  # val can be the test, too
        return sorted(Item(path, name) for videos in different for name, paths in videos.items() for path in paths)


class LeftOut:
    """Counts what is left out, and keeps examples, for the warnings of a list."""

    def __init__(self) -> None:
        self.paths: dict[str, list[str]] = defaultdict(list)  # by reason

    def add(self, reason: str, path: str) -> None:
        self.paths[reason].append(path)

    def warnings(self) -> list[str]:
        """A line for each reason, with three examples."""
        lines = []
        for reason, paths in self.paths.items():
            shown = ", ".join(_printable(path) for path in sorted(paths)[:3]) + (", ..." if len(paths) > 3 else "")
            lines.append(f"left out, {reason}: {len(paths)} ({shown})")
        return lines


def make_lists(
    root: Path,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    extensions: str = EXTENSIONS,
    exclude: Sequence[str] = (),
) -> Lists:
    """Find the videos below `root` and split them.

    Folders train/ and val/ or test/ with class folders in them, or tar files named so, are the split. Else each class
    is split on its own, by a generator seeded with its name, so that classes do not affect each other. Links are
    followed. Where no file is a video, folders of numbered images are the videos.

    Args:
        root: Folder of class folders, or of tar files.
        val: Fraction of a class's videos for validation, above 0.
        test: Fraction for testing; 0 tests on the validation videos.
        seed: Seed of the split.
        extensions: File extensions of videos, separated by commas.
        exclude: Patterns of paths to leave out (see `splits.is_excluded`).

    Raises:
        UserError: There is no such folder, no video, a split would be empty, or a class has a name that lists cannot
            hold.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; give the folder that holds one folder for each class")
    endings = {"." + ending.strip().lower().lstrip(".") for ending in extensions.split(",")}
    left_out, notes, warnings = LeftOut(), [], []
    tars = _tar_files(root)
    if tars:
        _refuse_videos_beside(root, tars, endings)
        found = {split: _videos_in_tars(root, files, endings, left_out) for split, files in tars.items()}
    else:
        given = _given_split(root)
        bases = given or {"all": [root]}
        if given:
            shown = ", ".join(f"{folder.name}/" for bases in given.values() for folder in bases)
            notes.append(f"{shown} hold class folders: this is the split (--test does not apply)")
            if "val" not in given:
                notes.append(f"no folder for validation, so a fraction of training, --val {val:g}, is split off")
            others = [folder.name for folder in _subfolders(root) if folder not in sum(given.values(), [])]
            warnings += [f"left out, since there is a split: {', '.join(map(_printable, others))}"] if others else []
        found = _videos_in_folders(root, bases, endings, left_out)
        if not any(any(videos.values()) for videos in found.values()):
            found = _frame_folders(root, bases)
            if paths := [path for videos in found.values() for listed in videos.values() for path in listed]:
                notes.append(f"no video files: the folders of images are the videos, {len(paths)} of them")
                warnings += _unclear_images(root / paths[0])
                left_out = LeftOut()
    for videos in found.values():
        for name, listed in videos.items():
            for path in [path for path in listed if is_excluded(path, exclude)]:
                left_out.add("--exclude", path)
            videos[name] = [path for path in listed if not is_excluded(path, exclude)]
    warnings += left_out.warnings()
    splits = found
    if "val" not in found:
        (base,) = found.keys() - {"test"}
        splits = found | split_classes(found[base], val, 0.0 if "test" in found else test, seed)
    splits = {split: splits.get(split, splits.get("val")) for split in SPLITS if split in splits or "val" in splits}
    names = sorted({name for videos in splits.values() for name in videos})
    if tars:
        names, splits = _name_labels(root, names, splits)
    elif not names:
        raise UserError(f"{root}: no class folders in it{_held(root)}; put each class's videos in a folder of its name")
    else:
        used = {name for videos in splits.values() for name, paths in videos.items() if paths}
        warnings += [f"{name}: no videos in this class folder, left out" for name in names if name not in used]
        names = sorted(used)
        warnings += _suspicious_names(root, names, bases)
    if not names:
        where = "tar files" if tars else "class folders"
        raise UserError(
            f"{root}: no videos ({extensions}) in its {where}; name other extensions with --ext"
            + "".join(f"; {line}" for line in left_out.warnings())
        )
    for split, videos in splits.items():
        if not any(videos.values()):
            raise UserError(f"{root}: no videos for {split}; a class needs one for each split")
        if missing := [name for name in names if not videos.get(name)]:
            warnings.append(f"{split} has no video of {', '.join(missing)}")
    return Lists(names, splits, notes, warnings, given="all" not in found)


def split_classes(videos: Videos, val: float, test: float, seed: int) -> dict[str, Videos]:
    """Split each class by fractions; without one for validation or testing there is no such split."""
    if not (0 <= val and 0 <= test and val + test < 1):
        raise UserError(f"--val {val} --test {test}: both must be 0 or more, and their sum below 1")
    splits: dict[str, Videos] = {split: {} for split in SPLITS}
    for name, paths in videos.items():
        remaining = random.Random(f"{seed} {name}").sample(paths, len(paths))
        for split, fraction in (("val", val), ("test", test)):
            # training keeps a video; then fractions above 0 get one at least
            count = min(len(remaining) - 1, max(1, round(fraction * len(paths)))) if fraction and remaining else 0
            splits[split][name] = sorted(remaining[:count])
            remaining = remaining[count:]
        splits["train"][name] = sorted(remaining)
    return {"train": splits["train"]} | {
        name: splits[name] for name, fraction in (("val", val), ("test", test)) if fraction
    }


def write_lists(out: Path, lists: Lists, separator: str = " ", force: bool = False) -> None:
    """Write classes.txt, train.csv, val.csv and test.csv, all or none.

    A path may contain the separator: lists are read from the end of the line.

    Raises:
        UserError: Files are there already and may not be replaced (`force`), or cannot be written.
    """
    write_texts(out, list_texts(lists.names, lists.item_split(), separator), force)


def list_texts(names: list[str], split: Split, separator: str, folder: str = "") -> dict[str, str]:
    """The texts of classes.txt and of the lists of a split, by the names of the files, below `folder`."""
    labels = {name: label for label, name in enumerate(names)}
    texts = {f"{folder}classes.txt": "".join(f"{name}\n" for name in names)}
    return texts | {f"{folder}{name}.csv": list_text(items, labels, separator) for name, items in split.items()}


def write_texts(out: Path, texts: dict[str, str], force: bool = False) -> None:
    """Write files below a folder, all or none.

    Raises:
        UserError: Files are there already and may not be replaced (`force`), or cannot be written.
    """
    existing = [name for name in texts if os.path.lexists(out / name)]
    if folder := next((name for name in existing if (out / name).is_dir()), None):
        raise UserError(f"{out / folder} is a folder, in the place of a list; choose another --out")
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
    try:
        paths = list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read ({error.strerror})") from None
    return sorted(path for path in paths if path.is_dir() and not path.name.startswith("."))


def _given_split(root: Path) -> dict[str, list[Path]]:
    """The folders of each split that holds class folders; empty unless there is one for training and another."""
    found = {
        split: [folder for folder in _subfolders(root) if folder.name.lower() in names and _subfolders(folder)]
        for split, names in SPLIT_NAMES.items()
    }
    found = {split: bases for split, bases in found.items() if bases}
    return found if "train" in found and len(found) > 1 else {}


def _class_name(folder: Path) -> str:
    """The class of a folder: macOS and Linux write the same accented name in different code points."""
    name = unicodedata.normalize("NFC", folder.name).strip()
    if not name or not _fits_a_line(name):
        raise UserError(f"{_printable(str(folder))}: lists cannot hold this class name; rename the folder")
    return name


def _class_folders(bases: list[Path]) -> list[tuple[str, Path]]:
    return [(_class_name(folder), folder) for base in bases for folder in _subfolders(base)]


def _videos_in_folders(
    root: Path, bases: dict[str, list[Path]], endings: set[str], left_out: LeftOut
) -> dict[str, Videos]:
    """Sorted videos of each split, at any depth below its class folders."""
    found: dict[str, Videos] = {}
    for split, folders_of_split in bases.items():
        videos = found[split] = defaultdict(list)
        for base in folders_of_split:
            for path in base.iterdir():
                if path.suffix.lower() in endings and path.is_file():
                    left_out.add("videos that are in no class folder", path.relative_to(root).as_posix())
                elif path.is_file() and path.name not in WRITTEN and not path.name.startswith("."):
                    left_out.add("no videos, and in no class folder", path.relative_to(root).as_posix())
                elif not path.exists():  # perhaps a class folder whose disk is away
                    left_out.add("links that lead nowhere, pipes and devices", path.relative_to(root).as_posix())
        for name, folder in _class_folders(folders_of_split):
            videos[name] += _videos_below(root, folder, endings, left_out)
            videos[name].sort()
    return found


def _videos_below(root: Path, folder: Path, endings: set[str], left_out: LeftOut) -> list[str]:
    def note(error: OSError) -> None:
        left_out.add(f"folders that cannot be read ({error.strerror})", os.path.relpath(error.filename, root))

    videos = []
    for parent, names in folders.walk(str(folder), note):
        for name in names:
            file, ending = os.path.join(parent, name), folders.ending_of(name)
            path = Path(os.path.relpath(file, root)).as_posix()
            if name.startswith("."):
                if ending in endings:
                    left_out.add("hidden files", path)
            elif ending not in endings:
                left_out.add(f"no video by its ending, {ending}" if ending else "no ending in the name", path)
            elif not os.path.isfile(file):
                left_out.add("links that lead nowhere, pipes and devices", path)
            elif ending in folders.VIDEO_ENDINGS and not folders.is_video(file):
                left_out.add(f"no video inside, {ending}", path)
            elif not _fits_a_line(path):
                left_out.add("names that a list cannot hold (not UTF-8, line breaks, spaces at an end)", path)
            else:
                videos.append(path)
    return videos


def _frame_folders(root: Path, bases: dict[str, list[Path]]) -> dict[str, Videos]:
    """Sorted folders of images of each split, at any depth below its class folders."""
    found: dict[str, Videos] = {}
    for split, folders_of_split in bases.items():
        videos = found[split] = defaultdict(list)
        for name, folder in _class_folders(folders_of_split):
            paths = [parent for parent, names in folders.walk(str(folder)) if folders.has_images(names)]
            videos[name] += [Path(os.path.relpath(path, root)).as_posix() for path in paths if path != str(folder)]
            videos[name].sort()
    return found


def _fits_a_line(text: str) -> bool:
    """Whether a list can hold a name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return text == text.strip() == text.strip(SPACES) and "\n" not in text and "\r" not in text


def _printable(text: str) -> str:
    return text if _fits_a_line(text) else ascii(text)


def _held(root: Path) -> str:
    """What a folder without class folders holds, for a message."""
    kinds = Counter(path.suffix.lower() or "no ending" for path in root.iterdir() if not path.name.startswith("."))
    return f", but files ({', '.join(f'{count} {kind}' for kind, count in kinds.most_common(3))})" if kinds else ""


def _suspicious_names(root: Path, names: list[str], bases: dict[str, list[Path]]) -> list[str]:
    """Warnings on class names that are probably not meant so."""
    lines = []
    for base in sum(bases.values(), []):
        counts = Counter(name for name, _ in _class_folders([base]))
        twice = ", ".join(name for name, count in counts.items() if count > 1)
        lines += (
            [f"{twice}: two folders of this name, which differ in invisible characters, are one class"] if twice else []
        )
    for name, other in pairwise(sorted(names, key=str.casefold)):
        if name.casefold() == other.casefold():
            lines.append(f"{name} and {other} differ in case only, and are two classes")
    if len(names) == 1 and _subfolders(root / names[0]):
        lines.append(f"{names[0]} is the only class; if the folders in it are the classes, give {root / names[0]}")
    return lines


def _unclear_images(folder: Path) -> list[str]:
    """A warning if the images of a frame folder cannot be told apart without DATA.IMAGE_TEMPLATE."""
    try:
        folders.find_images(str(folder), "{:05d}.jpg")
    except ValueError as error:
        return [f"{folder}: {error}"]
    return []


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


def _refuse_videos_beside(root: Path, tars: dict[str, list[Path]], endings: set[str]) -> None:
    """UserError where tar files lie beside videos: which are meant is not known."""
    for parent, names in folders.walk(str(root)):
        if video := next((name for name in names if folders.ending_of(name) in endings and name[0] != "."), None):
            tar = next(iter(tars.values()))[0]
            raise UserError(
                f"{root} holds tar files ({tar.name}) and videos ({os.path.join(parent, video)}); move one of them"
            )


def _videos_in_tars(root: Path, tars: list[Path], endings: set[str], left_out: LeftOut) -> Videos:
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
            elif folders.ending_of(file) not in SIDECARS and not file.startswith("."):
                left_out.add(
                    f"no video by its name, .{ending}" if ending else "no ending in the name", f"{tar.name}/{name}"
                )
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
    given = read_class_names(str(file)) if file.is_file() else [str(k) for k in range(count)]
    if len(given) < count:
        raise UserError(f"{file}: {counted(len(given), 'class')}, but the tar files have label {count - 1}")
    return given, {
        split: {given[int(label)]: paths for label, paths in videos.items()} for split, videos in splits.items()
    }
