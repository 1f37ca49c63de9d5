"""Check lists and every video in them before training: what cannot be read, comes twice, is unlike the rest.

OUTPUT_DIR/check_dataset.jsonl keeps what was read, so a second run reads only files that are new or changed
(by size and time of change; of a frame folder, the folder's own). Remove it to read everything again.
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

from slowfast_uniformer import paths
from slowfast_uniformer.analysis.video_scan import Facts, make_job, scan_videos
from slowfast_uniformer.data import annotations
from slowfast_uniformer.data.bad_videos import BadFiles
from slowfast_uniformer.errors import UserError

FAULTS = ("wrong line", "unreadable", "damaged", "leak", "contradiction")  # to be mended before training
NOTES = ("duplicate", "short", "odd", "variable size", "empty class")  # to be known
ODD_RATIO, ODD_SPREAD = 1.7, 5  # odd: off the median by this ratio, and by so many median deviations
UNIQUE_NAMES = 0.9  # with this share of distinct names in the lists, an equal name is an equal video


class Finding(NamedTuple):
    """A row of check_dataset.csv; `line` is None for what concerns a whole list."""

    split: str
    line: int | None
    path: str
    finding: str
    detail: str


class Entry(NamedTuple):
    """A line of a list, and what was found in its file."""

    split: str
    line: int
    sample: annotations.Sample
    facts: Facts

    def found(self, finding: str, detail: str) -> Finding:
        return Finding(self.split, self.line, self.sample.path, finding, detail)


class Report(NamedTuple):
    """Findings in the order of the lists; how many files there are and how many were read now; for each split
    how many videos each class has."""

    findings: list[Finding]
    files: int
    read: int
    classes: dict[str, list[int]]


def check(cfg: CfgNode, splits: Sequence[str], workers: int, fast: bool = False) -> Report:
    """Check the lists of `splits` and their files; writes check_dataset.csv and bad_files.txt to OUTPUT_DIR.

    `workers` processes read, or this one if 0. All frames are decoded, or if `fast` DATA.NUM_FRAMES spread
    over each video. Raises UserError where a list, the class names or OUTPUT_DIR cannot be used.
    """
    findings: list[Finding] = []
    lines = [(split, *row) for split in splits for row in _lines(cfg, split, findings)]
    spread, images = (cfg.DATA.NUM_FRAMES if fast else 0), cfg.DATA.IMAGE_TEMPLATE
    videos = dict.fromkeys((sample.path, sample.frames) for _, _, sample in lines)
    jobs = {(path, frames): make_job(path, images, frames, spread) for path, frames in videos}
    classes = {split: _count(cfg, [s for at, _, s in lines if at == split]) for split in splits}
    findings += _empty(cfg, classes)
    try:
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        kept = os.path.join(cfg.OUTPUT_DIR, "check_dataset.jsonl")
        facts, read = scan_videos(list(jobs.values()), kept, workers)
        entries = [Entry(at, line, s, facts[jobs[s.path, s.frames]]) for at, line, s in lines]
        findings += [finding for entry in entries for finding in _own(cfg, entry)]
        findings += [*_odd(entries), *_repeats(entries)]
        findings.sort(key=lambda finding: (splits.index(finding.split), finding.line or 0))
        _write(cfg, findings, entries, fast)
    except OSError as error:
        raise UserError(f"OUTPUT_DIR: cannot write to {cfg.OUTPUT_DIR}: {error.strerror}") from None
    return Report(findings, len(facts), read, classes)


def _lines(cfg: CfgNode, split: str, wrong: list[Finding]) -> Iterator[tuple[int, annotations.Sample]]:
    """Number and sample of each good line (of a JSON list, each video); the others become findings."""
    path, form = annotations.list_path(cfg, split), annotations.format_of(cfg, split)
    try:
        text = Path(paths.fetch(path)).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError):
        text = ""
    if path.endswith(".json") or not text.strip():
        yield from enumerate(annotations.load(cfg, split), 1)  # or raises what is wrong with the list
        return
    rules = annotations.Rules.of(cfg, split)
    separator = annotations.separator_of(text, cfg, form.fields)
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path}, line {number}"
        try:
            if line.strip():
                row = annotations.split_line(line, where, separator, form.fields)
                yield number, annotations.to_sample(row, where, rules)
        except UserError as error:
            reason = str(error).removeprefix(f"{where}: ")
            wrong.append(Finding(split, number, line.strip(), "wrong line", reason))


def _count(cfg: CfgNode, samples: list[annotations.Sample]) -> list[int]:
    counts = Counter(label for sample in samples for label in sample.labels)
    return [counts[label] for label in range(cfg.MODEL.NUM_CLASSES)]


def _empty(cfg: CfgNode, classes: dict[str, list[int]]) -> Iterator[Finding]:
    names = annotations.class_names(cfg) or list(map(str, range(cfg.MODEL.NUM_CLASSES)))
    for split, counts in classes.items():
        if empty := [name for name, count in zip(names, counts, strict=True) if not count]:
            path = annotations.list_path(cfg, split)
            yield Finding(split, None, path, "empty class", f"no video of {', '.join(empty)}")


def _own(cfg: CfgNode, entry: Entry) -> Iterator[Finding]:
    """What is wrong with a video by itself."""
    facts = entry.facts
    if "error" in facts:
        yield entry.found("unreadable", facts["error"])
        return
    if facts.get("damaged"):
        yield entry.found("damaged", f"{facts['damaged']} of {facts['frames']} frames decode with errors")
    if facts["frames"] < cfg.DATA.NUM_FRAMES:
        yield entry.found("short", f"{facts['frames']} frames; DATA.NUM_FRAMES is {cfg.DATA.NUM_FRAMES}")
    if facts.get("sizes", 1) > 1:
        yield entry.found("variable size", f"frames of {facts['sizes']} sizes")


def _odd(entries: list[Entry]) -> Iterator[Finding]:
    """Sizes and rates far from the median of all videos, by ratio."""
    for key in ("width", "height", "fps"):
        logs = [(math.log(entry.facts[key]), entry) for entry in entries if entry.facts.get(key)]
        centre = median(value for value, _ in logs) if logs else 0
        spread = median(abs(value - centre) for value, _ in logs) if logs else 0
        for value, entry in logs:
            if abs(value - centre) > max(math.log(ODD_RATIO), ODD_SPREAD * spread):
                detail = f"{key} {entry.facts[key]:.4g}, where the median is {math.exp(centre):.4g}"
                yield entry.found("odd", detail)


def _repeats(entries: list[Entry]) -> Iterator[Finding]:
    """Videos twice in a list, or in train and another one. Val and test may share theirs."""
    files = {(entry.split, entry.sample.path) for entry in entries}
    names = {(split, Path(path).stem) for split, path in files}
    telling = len(names) >= UNIQUE_NAMES * len(files)
    first: dict[tuple, Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.split != "train"):
        sample = entry.sample
        keys = [("path", sample.path, sample.part)]
        keys += [("content", entry.facts["hash"], sample.part)] if "hash" in entry.facts else []
        keys += [("name", Path(sample.path).stem, sample.label, sample.part)] if telling else []
        for split in dict.fromkeys(("train", entry.split)):
            if key := next((key for key in keys if (split, key) in first), None):
                other = first[split, key]
                where = f"same {key[0]} as line {other.line} of {split}, {other.sample.path}"
                yield entry.found("duplicate" if split == entry.split else "leak", where)
                if sample.label not in (other.sample.label, annotations.UNLABELLED):
                    yield entry.found("contradiction", f"{where}, which has label {other.sample.label}")
        for key in keys:
            first.setdefault((entry.split, key), entry)


def _write(cfg: CfgNode, findings: list[Finding], entries: list[Entry], fast: bool) -> None:
    """check_dataset.csv; and bad_files.txt, where what training has noted stays unless it was now read."""
    with open(os.path.join(cfg.OUTPUT_DIR, "check_dataset.csv"), "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([Finding._fields, *findings])
    bad = {entry.sample.path: entry.facts["error"] for entry in entries if "error" in entry.facts}
    noted = BadFiles(cfg.OUTPUT_DIR)
    read = set() if fast else {entry.sample.path for entry in entries}
    bad = {path: cause for path, cause in noted.causes.items() if path not in read} | bad
    with open(noted.path + ".tmp", "w", encoding="utf-8") as file:
        file.writelines(f"{path}\t{' '.join(cause.split())}\n" for path, cause in bad.items())
    os.replace(noted.path + ".tmp", noted.path)
