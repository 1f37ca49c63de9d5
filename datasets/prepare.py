"""Turn a data set's own annotation files into the lists that training reads.

    python datasets/prepare.py NAME --annotations DIR --out DIR [--videos DIR] [--split 1] [--force]

NAME is a row of `DATASETS`. datasets/DATASET.md says for each which files belong into --annotations and how many
videos to expect. With --videos, paths are those of the files found below that folder, in any subfolder and with any
ending, and missing videos are left out and counted; without it, paths are as the data set distributes them. Labels
follow the order of datasets/labels/, and classes.txt is written beside the lists.
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from slowfast_uniformer.data import folders
from slowfast_uniformer.data.classes import read_class_names
from slowfast_uniformer.data.list_text import read_text, split_lines
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import atomic_write, expand

LABELS = Path(__file__).resolve().parent / "labels"
MAPS = resources.files("slowfast_uniformer") / "labels"  # Kinetics-710 labels of the smaller releases' classes
Lists = dict[str, list[str]]  # file name to its lines


class Source:
    """Input of a data set's function: its annotation files, its classes, its videos.

    Args:
        annotations: Folder of the data set's own files.
        videos: Folder of the videos or frame folders; None if the lists shall have the usual paths.
        names: Class names in label order.
        split: Number of the split, for data sets that have several.

    Attributes:
        missing: Number of videos that were not found.
    """

    def __init__(self, annotations: Path, videos: Path | None, names: list[str], split: int = 1):
        self.annotations, self.folder, self.names, self.split = annotations, videos, names, split
        self._labels = {name.lower(): label for label, name in enumerate(names)}
        self.missing = 0
        self._found: dict[str, str] | None = None
        if videos is not None and not videos.is_dir():
            raise UserError(f"--videos {videos}: no such folder")

    def file(self, *names: str) -> Path:
        """The first of these annotation files that exists."""
        for name in names:
            if (self.annotations / name).is_file():
                return self.annotations / name
        raise UserError(f"{self.annotations} holds no {' or '.join(names)}; see datasets/DATASET.md")

    def lines(self, *names: str) -> Iterator[tuple[str, str]]:
        """(position for messages, line) of every line that is not blank."""
        path = self.file(*names)
        for number, line in enumerate(split_lines(read_text(str(path), "annotations")), 1):
            if line:
                yield f"{path}, line {number}", line

    def rows(self, *names: str) -> Iterator[tuple[str, dict[str, str]]]:
        """(position for messages, row) of a CSV file with a header."""
        path = self.file(*names)
        reader = csv.DictReader(io.StringIO(read_text(str(path), "annotations"), newline=""))
        yield from ((f"{path}, line {reader.line_num}", row) for row in reader)

    def json(self, *names: str) -> object:
        """Content of a JSON file."""
        path = self.file(*names)
        try:
            return json.loads(read_text(str(path), "annotations"))
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error})") from None

    def label(self, name: str, where: str) -> int:
        """Label of a class. Case is ignored, as releases of a data set differ in it."""
        if name.lower() not in self._labels:
            raise UserError(f"{where}: {name!r} is not one of the {len(self.names)} classes")
        return self._labels[name.lower()]

    def path(self, usual: str, *other_stems: str) -> str | None:
        """Path of a video whose usual path is given; None, and counted as missing, if it is not found."""
        if self.folder is None:
            return usual
        if self._found is None:
            files = [Path(parent, name) for parent, names in folders.walk(str(self.folder)) for name in names]
            files.sort(key=lambda path: (path.suffix.lower() in folders.VIDEO_ENDINGS, path))  # before thumbnails
            self._found = {path.stem: path.relative_to(self.folder).as_posix() for path in files}
        for stem in (Path(usual).stem, *other_stems):
            if stem in self._found:
                return self._found[stem]
        self.missing += 1
        return None

    def frames(self, video: str, template: str) -> int:
        """Number of images in a video's frame folder, with the DATA.IMAGE_TEMPLATE of the data set if there are several
        series of images."""
        if self.folder is None:
            raise UserError("--videos: the folder of frame folders is needed, to count the frames")
        try:
            return folders.find_images(str(self.folder / video), template).frames
        except (OSError, ValueError):
            self.missing += 1
            return 0


def add_test_list(lists: Lists) -> Lists:
    """Use the validation list for testing, where the labels of the test set are not public."""
    return {**lists, "test.csv": lists["val.csv"]}


def kinetics(source: Source) -> Lists:
    """train.csv and val.csv of Kinetics: label, youtube_id, time_start, time_end, split."""
    lists: Lists = {}
    for split, names in {"train": ("train.csv",), "val": ("val.csv", "validate.csv")}.items():
        lines = lists[f"{split}.csv"] = []
        for where, row in source.rows(*names):
            try:
                video, name = row["youtube_id"], row["label"]
                start, end = (int(float(row[key])) for key in ("time_start", "time_end"))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{where}: label, youtube_id, time_start, time_end expected ({error})") from None
            label = source.label(name, where)
            if path := source.path(f"{name}/{video}_{start:06d}_{end:06d}.mp4", video):
                lines.append(f"{path} {label}")
    return add_test_list(lists)


def k710(source: Source) -> Lists:
    """Kinetics-710 from prepared lists in k400/, k600/ and k700/: each video once, and no video of any
    validation list in training. Paths begin with the data set's folder."""
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "val": []}  # (YouTube id, line)
    for name in ("k400", "k600", "k700"):
        to_710 = json.loads((MAPS / f"k710_to_{name}.json").read_text())
        for split, rows in parts.items():
            for where, line in source.lines(f"{name}/{split}.csv"):
                path, _, label = line.rpartition(" ")
                if not path or not label.isdigit() or int(label) >= len(to_710):
                    raise UserError(
                        f"{where}: 'path label' expected, as in the lists that this script writes for {name}"
                    )
                rows.append((Path(path).stem[:11], f"{name}/{path} {to_710[int(label)]}"))
    val = dict(reversed(parts["val"]))
    train = {video: line for video, line in reversed(parts["train"]) if video not in val}
    return add_test_list({"train.csv": list(train.values())[::-1], "val.csv": list(val.values())[::-1]})


def something(source: Source, version: str, videos: dict[str, Iterator[tuple[str, str, str]]]) -> Lists:
    """Lists `folder frames label` of frame folders from (position, id, class name or "") of each video."""
    lists: Lists = {}
    for split, rows in videos.items():
        lines = lists[f"somesome{version}_rgb_{split}_split.txt"] = []
        for where, video, name in rows:
            label = source.label(name, where) if name else -1
            if frames := source.frames(video, "{:05d}.jpg" if version == "v1" else "img_{:05d}.jpg"):
                lines.append(f"{video} {frames} {label}")
    return lists


def sthv1(source: Source) -> Lists:
    """something-something-v1-*.csv (`id;label`, test: `id`)."""

    def rows(split: str) -> Iterator[tuple[str, str, str]]:
        for where, line in source.lines(f"something-something-v1-{split}.csv"):
            video, _, name = line.partition(";")
            yield where, video, name

    return something(source, "v1", {split: rows(split) for split in ("train", "validation", "test")})


def sthv2(source: Source) -> Lists:
    """Something-Something V2's JSON, for videos extracted into frame folders."""

    def rows(split: str) -> Iterator[tuple[str, str, str]]:
        names = (f"{split}.json", f"something-something-v2-{split}.json")
        for entry in source.json(*names):
            name = entry.get("template", "").replace("[", "").replace("]", "")
            yield f"{source.file(*names)}, id {entry['id']}", entry["id"], name

    return something(source, "v2", {split: rows(split) for split in ("train", "validation", "test")})


def mit(source: Source) -> Lists:
    """trainingSet.csv and validationSet.csv of Moments in Time (`class/video.mp4,class,...`)."""
    lists: Lists = {}
    for name, split in {"trainingSet.csv": "train", "validationSet.csv": "val"}.items():
        lines = lists[f"{split}.csv"] = []
        for where, line in source.lines(name):
            path, category = (line.split(",") + [""])[:2]
            label = source.label(category, where)
            if path := source.path(path):
                lines.append(f"{path} {label}")
    return add_test_list(lists)


def activitynet(source: Source) -> Lists:
    """JSON of ActivityNet and HACS Segments, to lists `path total start end label`. Training has a line for each
    annotated segment, validation a line for each video and class."""
    lists: Lists = {"train.csv": [], "val.csv": []}
    names = ("activity_net.v1-3.min.json", "HACS_segments_v1.1.1.json")
    where = source.file(*names)
    for video, entry in source.json(*names)["database"].items():
        parts = {(part["label"], *map(float, part["segment"])) for part in entry["annotations"]}
        if entry["subset"] == "testing" or not parts:
            continue
        train, total = entry["subset"] == "training", float(entry["duration"])
        path = source.path(f"v_{video}.mp4", video)
        seen: set[str] = set()
        for name, start, end in sorted(parts):
            label = source.label(name.replace("_", " "), f"{where}, video {video}")
            if path and 0 <= start < min(end, total) and (train or name not in seen):
                lists["train.csv" if train else "val.csv"].append(f"{path} {total} {start} {end} {label}")
            seen.add(name)
    return add_test_list(lists)


def ucf101(source: Source) -> Lists:
    """trainlist0N.txt (`Class/video.avi label`, from 1), testlist0N.txt (no labels), classInd.txt."""
    for where, line in source.lines("classInd.txt"):
        number, _, name = line.partition(" ")
        label = source.label(name, where) + 1
        if number != str(label):
            raise UserError(f"{where}: {name} is class {number} here, not {label}")
    lists: Lists = {}
    for split, name in {"train": "trainlist", "val": "testlist"}.items():
        lines = lists[f"{split}.csv"] = []
        for where, line in source.lines(f"{name}{source.split:02d}.txt"):
            usual, _, number = line.partition(" ")
            label = source.label(usual.split("/")[0], where)
            if number and int(number) != label + 1:
                raise UserError(f"{where}: label {number}, but classInd.txt says {label + 1}")
            if path := source.path(usual):
                lines.append(f"{path} {label}")
    return add_test_list(lists)


def hmdb51(source: Source) -> Lists:
    """<class>_test_splitN.txt: `video.avi 0|1|2` for unused, training and testing."""
    lists: Lists = {"train.csv": [], "val.csv": []}
    for label, name in enumerate(source.names):
        for where, line in source.lines(f"{name}_test_split{source.split}.txt"):
            video, _, use = line.rpartition(" ")
            video = video.strip()
            if use not in ("0", "1", "2") or not video:
                raise UserError(f"{where}: 'video.avi 0', 1 or 2 expected, found {line!r}")
            if use != "0" and (path := source.path(f"{name}/{video}")):
                lists["train.csv" if use == "1" else "val.csv"].append(f"{path} {label}")
    return add_test_list(lists)


def charades(source: Source) -> Lists:
    """Charades_v1_train.csv and _test.csv: `path label,label,...`, "-" where no action is annotated."""
    lists: Lists = {}
    for split, name in {"train": "train", "val": "test"}.items():
        lines = lists[f"{split}.csv"] = []
        for where, row in source.rows(f"Charades_v1_{name}.csv"):
            try:
                actions = {int(action.split()[0].removeprefix("c")) for action in row["actions"].split(";") if action}
            except (KeyError, ValueError, IndexError) as error:
                raise UserError(
                    f"{where}: id and actions such as 'c092 1.0 5.2;c147 0.0 3.1' expected ({error})"
                ) from None
            if path := source.path(f"{row['id']}.mp4"):
                lines.append(f"{path} {','.join(map(str, sorted(actions))) or '-'}")
    return add_test_list(lists)


def charades_names(annotations: Path) -> list[str]:
    """Class names from Charades_v1_classes.txt (`c000 Holding some clothes`)."""
    lines = Source(annotations, None, []).lines("Charades_v1_classes.txt")
    return [line.partition(" ")[2] for _, line in lines]


class Dataset(NamedTuple):
    """How a data set is prepared.

    Attributes:
        lists: Makes the lists.
        names: A file of class names in labels/, or a function that reads them from the annotations.
    """

    lists: Callable[[Source], Lists]
    names: str | Callable[[Path], list[str]]


DATASETS = {
    "k400": Dataset(kinetics, "k400"),
    "k600": Dataset(kinetics, "k600"),
    "k700": Dataset(kinetics, "k700"),
    "k710": Dataset(k710, "k710"),
    "sthv1": Dataset(sthv1, "sthv1"),
    "sthv2": Dataset(sthv2, "sthv2"),
    "mit": Dataset(mit, "mit"),
    "anet": Dataset(activitynet, "anet"),
    "hacs": Dataset(activitynet, "hacs"),
    "ucf101": Dataset(ucf101, "ucf101"),
    "hmdb51": Dataset(hmdb51, "hmdb51"),
    "charades": Dataset(charades, charades_names),
}


def prepare(
    name: str, annotations: Path, out: Path, videos: Path | None = None, split: int = 1, force: bool = False
) -> tuple[Lists, int]:
    """Write the lists and classes.txt of a data set.

    Args:
        name: A row of `DATASETS`.
        annotations: Folder of the data set's own files.
        out: Folder to write to.
        videos: Folder of the videos or frame folders; None for the usual paths.
        split: Number of the split of UCF101 and HMDB51, 1 to 3.
        force: Replace lists that exist.

    Returns:
        The lists (file name to lines) and the number of missing videos.

    Raises:
        UserError: A file is missing or malformed, or a list exists or would be empty.
    """
    dataset = DATASETS[name]
    if not annotations.is_dir():
        raise UserError(f"--annotations {annotations}: no such folder")
    names = dataset.names(annotations) if callable(dataset.names) else _packaged_names(dataset.names)
    source = Source(annotations, videos, names, split)
    lists = dataset.lists(source)
    if empty := [list_name for list_name, lines in lists.items() if not lines]:
        raise UserError(f"{empty[0]} would be empty; is --videos {videos} the folder of {name}'s videos?")
    if existing := [list_name for list_name in lists if (out / list_name).exists() and not force]:
        raise UserError(f"{out} has {', '.join(existing)} already; --force replaces, --out names another place")
    for line in (line for lines in lists.values() for line in lines):
        if not line.isascii():
            _check_name(line)
    for list_name, lines in {**lists, "classes.txt": names}.items():
        atomic_write(out / list_name, "".join(f"{line}\n" for line in lines))
    return lists, source.missing


def _check_name(line: str) -> None:
    """Refuse a line whose path is not UTF-8, before anything is written."""
    try:
        line.encode()
    except UnicodeEncodeError:
        shown = line.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise UserError(f"'{shown}': the name of this file is not UTF-8; rename it (convmv does many)") from None


def _packaged_names(name: str) -> list[str]:
    return read_class_names(str(LABELS / f"{name}.txt"))


def _path(text: str) -> Path:
    return Path(expand(text))  # which a shell does not in --out=~/lists


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Turn a data set's own annotations into lists.")
    parser.add_argument("name", choices=DATASETS)
    parser.add_argument("--annotations", type=_path, required=True, help="folder of the data set's own files")
    parser.add_argument("--out", type=_path, required=True, help="folder for the lists")
    parser.add_argument("--videos", type=_path, help="folder of the videos, or of frame folders")
    parser.add_argument("--split", type=int, default=1, choices=(1, 2, 3), help="of UCF101 and HMDB51")
    parser.add_argument("--force", action="store_true", help="replace existing lists")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    try:
        args = parse_args(argv)
        lists, missing = prepare(args.name, args.annotations, args.out, args.videos, args.split, args.force)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for name, lines in lists.items():
        print(f"{len(lines):8} {args.out / name}")
    if missing:
        print(f"{missing:8} videos were not found in {args.videos} and are left out")


if __name__ == "__main__":
    main()
