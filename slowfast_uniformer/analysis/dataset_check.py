"""Check lists and every video in them before training: unreadable, duplicated and odd videos, leaks, wrong lines.

OUTPUT_DIR/check_dataset.jsonl caches what was read, so a second run reads only files that are new or changed (by
size and modification time; of a frame folder, the folder's own). Remove it to read everything again.
"""

import csv
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from fvcore.common.config import CfgNode

from slowfast_uniformer.analysis import decoding_cost, leaks
from slowfast_uniformer.analysis.decoding_cost import DecodingCost
from slowfast_uniformer.analysis.video_scan import Facts, make_job, scan_videos
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.bad_videos import BadVideo, BadVideos, file_state
from slowfast_uniformer.data.list_notes import label_order_notes
from slowfast_uniformer.data.sample_list import SampleList
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs.log import progress
from slowfast_uniformer.wording import counted

# To be fixed before training
FAULTS = ("wrong line", "unreadable", "damaged", "beyond the end", "leak", "contradiction", "label order")
NOTES = ("duplicate", "same source", "look-alike", "short", "ends later", "incomplete", "odd", "variable size")
NOTES += ("empty class", "few videos")  # for information
ODD_RATIO, ODD_SPREAD = 1.7, 5  # odd: off the median by this ratio, and by this many median absolute deviations
NEEDED = 2  # videos of a class for training; one could only be learnt by heart
LATER = 0.5  # seconds by which the end of a segment can be rounded
UNIQUE_NAMES = 0.9  # with this share of distinct names in the lists, an equal name means an equal video


class Finding(NamedTuple):
    """A row of check_dataset.csv; `line` is None for a finding about a whole list."""

    split: str
    line: int | None
    path: str
    finding: str
    detail: str


class Entry(NamedTuple):
    """A line of a list, its sample, and what was found in the video."""

    split: str
    line: int
    sample: annotations.Sample
    facts: Facts

    def found(self, finding: str, detail: str) -> Finding:
        return Finding(self.split, self.line, self.sample.path, finding, detail)


class Report(NamedTuple):
    """The result of a check.

    Attributes:
        findings: In the order of the lists.
        files: Number of videos.
        read: Number of videos that were read now; the cache held the others.
        classes: For each split, the number of videos of each class.
        decoding: What decoding training clips takes; None if training is not checked, or reads no video files.
    """

    findings: list[Finding]
    files: int
    read: int
    classes: dict[str, list[int]]
    decoding: DecodingCost | None


def check(cfg: CfgNode, splits: Sequence[str], workers: int, fast: bool = False) -> Report:
    """Check lists and their videos; writes check_dataset.csv and bad_files.txt to OUTPUT_DIR.

    Args:
        cfg: The config.
        splits: Lists to check, of train, val and test.
        workers: Number of reading processes; 0 reads in this process.
        fast: Decode only DATA.NUM_FRAMES frames, spread over each video, instead of all.

    Raises:
        UserError: A list, the class names or OUTPUT_DIR cannot be used.
    """
    findings: list[Finding] = []
    lines: list[tuple[str, int, annotations.Sample]] = []
    for split in splits:
        for row, sample in annotations.read_rows(cfg, split):
            if isinstance(sample, UserError):
                reason = str(sample).removeprefix(f"{row.where}: ")
                findings.append(Finding(split, row.number, row.text, "wrong line", reason))
            else:
                lines.append((split, row.number, sample))
    spread, images = (cfg.DATA.NUM_FRAMES if fast else 0), cfg.DATA.IMAGE_TEMPLATE
    videos = dict.fromkeys((sample.path, sample.frames) for _, _, sample in lines)
    shown = progress(videos, len(videos), "look for the files", "video")
    jobs = {(path, frames): make_job(path, images, frames, spread) for path, frames in shown}
    counts = Counter((split, label) for split, _, sample in lines for label in sample.labels)
    classes = {split: [counts[split, label] for label in range(cfg.MODEL.NUM_CLASSES)] for split in splits}
    findings += _empty_classes(cfg, classes)
    findings += _label_order(cfg, splits, lines)
    try:
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        cache = os.path.join(cfg.OUTPUT_DIR, "check_dataset.jsonl")
        facts, read = scan_videos(list(jobs.values()), cache, workers)
        entries = [Entry(at, line, s, facts[jobs[s.path, s.frames]]) for at, line, s in lines]
        findings += [finding for entry in entries for finding in _video_findings(cfg, entry)]
        findings += [*_odd(entries), *_repeats(entries), *leaks.shared_sources(entries)]
        in_train = {(f.split, f.line) for f in findings if f.finding in ("leak", "same source")}
        findings += leaks.look_alikes(entries, in_train)
        findings.sort(key=lambda finding: (splits.index(finding.split), finding.line or 0))
        _write(cfg, findings, entries, fast)
    except OSError as error:
        raise UserError(f"OUTPUT_DIR: cannot write to {cfg.OUTPUT_DIR}: {error.strerror}") from None
    unreadable = {entry.sample for entry in entries if "error" in entry.facts}
    train = [entry.sample for entry in entries if entry.split == "train" and entry.sample not in unreadable]
    return Report(findings, len(facts), read, classes, decoding_cost.measure(cfg, train))


def _empty_classes(cfg: CfgNode, classes: dict[str, list[int]]) -> Iterator[Finding]:
    names = annotations.class_names(cfg) or list(map(str, range(cfg.MODEL.NUM_CLASSES)))
    for split, counts in classes.items():
        if empty := [name for name, count in zip(names, counts, strict=True) if not count]:
            path = annotations.list_path(cfg, split)
            yield Finding(split, None, path, "empty class", f"no video of {', '.join(empty)}")
        few = [name for name, count in zip(names, counts, strict=True) if split == "train" and 0 < count < NEEDED]
        if few:
            path = annotations.list_path(cfg, split)
            yield Finding(split, None, path, "few videos", f"fewer than {NEEDED} videos of {', '.join(few)}")


def _label_order(
    cfg: CfgNode, splits: Sequence[str], lines: Sequence[tuple[str, int, annotations.Sample]]
) -> Iterator[Finding]:
    """Lists whose labels the folders of the videos contradict."""
    lists = {split: SampleList.of(sample for own, _, sample in lines if own == split) for split in splits}
    for split, detail in label_order_notes(cfg, lists, annotations.class_names(cfg)):
        yield Finding(split, None, annotations.list_path(cfg, split), "label order", detail)


def _video_findings(cfg: CfgNode, entry: Entry) -> Iterator[Finding]:
    """Findings that concern a single video."""
    facts = entry.facts
    if "error" in facts:
        yield entry.found("unreadable", facts["error"].removeprefix(f"cannot read {entry.sample.path}: "))
        return
    if facts.get("damaged"):
        yield entry.found("damaged", f"{facts['damaged']} of {counted(facts['frames'], 'frame')} decode with errors")
    if facts.get("passed_over"):
        frames = counted(facts["frames"], "frame")
        yield entry.found("incomplete", f"{frames}; more, cut off or damaged, do not decode ({facts['passed_over']})")
    if entry.sample.segment:
        yield from _segment_findings(cfg, entry, *entry.sample.segment)
    elif facts["frames"] < cfg.DATA.NUM_FRAMES:
        yield entry.found("short", f"{counted(facts['frames'], 'frame')}; DATA.NUM_FRAMES is {cfg.DATA.NUM_FRAMES}")
    if facts.get("sizes", 1) > 1:
        yield entry.found("variable size", f"frames of {facts['sizes']} sizes")


def _segment_findings(cfg: CfgNode, entry: Entry, start: float, end: float) -> Iterator[Finding]:
    facts, fps = entry.facts, entry.facts["fps"] or cfg.DATA.FOLDER_FPS
    stop = facts["seconds"] or facts["frames"] / fps
    if start >= stop:
        yield entry.found(
            "beyond the end", f"a segment from {start:g} to {end:g} s, and the video ends at {stop:.6g} s"
        )
        return
    if end > stop + LATER:
        yield entry.found("ends later", f"the segment ends at {end:g} s, the video at {stop:.6g} s")
    if (frames := round((min(end, stop) - start) * fps)) < cfg.DATA.NUM_FRAMES:
        detail = f"{counted(max(1, frames), 'frame')} in the segment; DATA.NUM_FRAMES is {cfg.DATA.NUM_FRAMES}"
        yield entry.found("short", detail)


def _odd(entries: list[Entry]) -> Iterator[Finding]:
    """Frame sizes and rates whose ratio to the median of all videos is an outlier."""
    for key in ("width", "height", "fps"):
        logs = [(math.log(entry.facts[key]), entry) for entry in entries if entry.facts.get(key)]
        centre = median(value for value, _ in logs) if logs else 0
        spread = median(abs(value - centre) for value, _ in logs) if logs else 0
        for value, entry in logs:
            if abs(value - centre) > max(math.log(ODD_RATIO), ODD_SPREAD * spread):
                detail = f"{key} {entry.facts[key]:.4g}, where the median is {math.exp(centre):.4g}"
                yield entry.found("odd", detail)


def _repeats(entries: list[Entry]) -> Iterator[Finding]:
    """Videos twice in a list, or in train and another list. Val and test may share videos."""
    files = {(entry.split, entry.sample.path) for entry in entries}
    names = {(split, Path(path).stem) for split, path in files}
    names_identify = len(names) >= UNIQUE_NAMES * len(files)
    first: dict[tuple, Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.split != "train"):
        sample = entry.sample
        keys = [("path", sample.path, sample.part)]
        keys += [("content", entry.facts["hash"], sample.part)] if "hash" in entry.facts else []
        keys += [("name", Path(sample.path).stem, sample.label, sample.part)] if names_identify else []
        for split in dict.fromkeys(("train", entry.split)):
            if key := next((key for key in keys if (split, key) in first), None):
                other = first[split, key]
                where = f"same {key[0]} as line {other.line} of {split}"
                where += "" if key[0] == "path" else f", {other.sample.path}"
                yield entry.found("duplicate" if split == entry.split else "leak", where)
                if sample.label not in (other.sample.label, annotations.UNLABELLED):
                    yield entry.found("contradiction", f"{where}, which has label {other.sample.label}")
        for key in keys:
            first.setdefault((entry.split, key), entry)


def _write(cfg: CfgNode, findings: list[Finding], entries: list[Entry], fast: bool) -> None:
    """Write check_dataset.csv and bad_files.txt, where videos noted in training stay unless all their frames were
    read now."""
    path = os.path.join(cfg.OUTPUT_DIR, "check_dataset.csv")
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        csv.writer(file).writerows([Finding._fields, *findings])
    bad_videos = BadVideos(cfg.OUTPUT_DIR)
    read = set() if fast else {entry.sample.path for entry in entries}
    noted = {path: video for path, video in bad_videos.videos.items() if path not in read}
    for path, facts in {entry.sample.path: entry.facts for entry in entries if "error" in entry.facts}.items():
        noted[path] = BadVideo(path, facts["error"], None if facts.get("away") else file_state(path))
    bad_videos.replace(noted.values())
