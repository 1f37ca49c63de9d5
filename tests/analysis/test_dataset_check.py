"""The data set check on the demo data with every kind of fault in it: it finds all of them and nothing else."""

import csv
import json
import multiprocessing
import os
import shutil
from pathlib import Path

import av
import pytest
from conftest import ROOT
from PIL import Image
from video_factory import X264, damage, shorten, write_audio, write_video

from slowfast_uniformer.analysis import video_scan
from slowfast_uniformer.analysis.dataset_check import FAULTS, NOTES, check
from slowfast_uniformer.analysis.video_scan import examine
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data import processes
from slowfast_uniformer.data.bad_videos import BadVideo, BadVideos, file_state
from slowfast_uniformer.data.open_video import open_sample
from slowfast_uniformer.data.sample_list import Sample
from slowfast_uniformer.errors import UserError

SPLITS = ("train", "val", "test")
SMALL = dict(size=(40, 40), frames=16, bframes=0, **X264)


@pytest.fixture
def data(demo, tmp_path) -> Path:
    """The demo data set in a folder of its own, to be damaged."""
    shutil.copytree(demo / "videos", tmp_path / "data" / "videos")
    for name in ("train.csv", "val.csv", "test.csv", "classes.txt"):
        shutil.copy(demo / name, tmp_path / "data" / name)
    return tmp_path / "data"


@pytest.fixture
def cfg(data, tiny):
    return load_config(None, [*tiny, "DATA.PATH_TO_DATA_DIR", str(data), "DATA.PATH_PREFIX", str(data / "videos")])


def append(data: Path, split: str, line: str) -> int:
    """Add a line to a list; returns its number."""
    path = data / f"{split}.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, line]) + "\n")
    return len(lines) + 1


def found(report) -> set:
    return {(f.split, f.line, f.finding) for f in report.findings}


def zeros_inside(path: Path) -> None:
    damage(path, 3, share=0.3)


def lost_inside(path: Path) -> None:
    damage(path, 3)


def variable(path: Path) -> None:
    parts = [write_video(path.with_name(f"{n}.h264"), **{**SMALL, "size": (40, n)}) for n in (40, 32)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))


# What is done to a copy of a good video, and what is to be found.
FAULTY_VIDEOS = {
    "truncated.mp4": (lambda path: shorten(path, 0.6), {"incomplete"}),
    "header_only.mp4": (lambda path: shorten(path, 0.01), {"unreadable"}),
    "empty.mp4": (lambda path: path.write_bytes(b""), {"unreadable"}),
    "text.mp4": (lambda path: path.write_text("404 not found"), {"unreadable"}),
    "missing.mp4": (lambda path: path.unlink(), {"unreadable"}),
    "folder.mp4": (lambda path: (path.unlink(), path.mkdir()), {"unreadable"}),
    "sound.mp4": (lambda path: write_audio(path), {"unreadable"}),
    "lost_inside.mp4": (lost_inside, {"incomplete"}),
    "zeros_inside.mp4": (zeros_inside, {"damaged"}),
    "short.mp4": (lambda path: write_video(path, **{**SMALL, "frames": 3}), {"short"}),
    "large.mp4": (lambda path: write_video(path, **{**SMALL, "size": (160, 120)}), {"odd"}),
    "slow.mp4": (lambda path: write_video(path, times=range(0, 64, 4), **SMALL), {"odd"}),
    "variable.h264": (variable, {"variable size"}),
}
LINES = ["a.mp4", "a.mp4 x", "a.mp4 8", "a.mp4 -1", "a.mp4,1", " 3"]


def test_every_fault_is_found_and_nothing_else(data, cfg):
    good = (data / "train.csv").read_text().split()[0]
    expected = set()
    for name, (break_video, findings) in FAULTY_VIDEOS.items():
        path = data / "videos" / name
        write_video(path, **{**SMALL, "gop": len(expected) + 3})  # no two are copies of one video
        break_video(path)
        line = append(data, "train", f"{name} 1")
        expected |= {("train", line, finding) for finding in findings}
    for text in LINES:
        expected.add(("train", append(data, "train", text), "wrong line"))
    (data / "videos" / "copies").mkdir()
    for name in ("copy.mp4", "leak.mp4"):
        shutil.copy(data / "videos" / good, data / "videos" / "copies" / name)
    label = (data / "train.csv").read_text().split()[1]
    expected.add(("train", append(data, "train", f"copies/copy.mp4 {label}"), "duplicate"))
    expected.add(("train", append(data, "train", f"{good} {label}"), "duplicate"))
    line = append(data, "train", f"copies/copy.mp4 {(int(label) + 1) % 8}")
    expected |= {("train", line, "duplicate"), ("train", line, "contradiction")}
    expected.add(("val", append(data, "val", f"copies/leak.mp4 {label}"), "leak"))
    write_video(data / "videos" / "copies" / Path(good).name, **SMALL)
    expected.add(("test", append(data, "test", f"copies/{Path(good).name} {label}"), "leak"))
    (data / "train.csv").write_text((data / "train.csv").read_text() + "\n\n")  # no harm in empty lines
    assert found(check(cfg, SPLITS, workers=0)) == expected
    others = {"label order", "empty class", "few videos", "same source", "look-alike", "beyond the end", "ends later"}
    assert {finding for *_, finding in expected} == {*FAULTS, *NOTES} - others
    rows = list(csv.DictReader(Path(cfg.OUTPUT_DIR, "check_dataset.csv").open(newline="")))
    assert {(row["split"], int(row["line"]), row["finding"]) for row in rows} == expected
    assert all(row["path"] and row["detail"] for row in rows)
    bad = {Path(path).name: video for path, video in BadVideos(cfg.OUTPUT_DIR).videos.items()}
    assert set(bad) == {name for name, (_, findings) in FAULTY_VIDEOS.items() if "unreadable" in findings}
    assert "No such file" in bad["missing.mp4"].cause and "no video stream" in bad["sound.mp4"].cause
    assert bad["missing.mp4"].state is None and bad["sound.mp4"].state == file_state(bad["sound.mp4"].path)


def test_good_data_has_no_findings_though_val_and_test_are_the_same(cfg):
    report = check(cfg, SPLITS, workers=0)
    assert report.findings == [] and (report.files, report.read) == (25, 25)
    assert [sum(counts) for counts in report.classes.values()] == [16, 9, 9]


def test_classes_without_videos_are_named(data, cfg):
    lines = (data / "val.csv").read_text().splitlines()
    (data / "val.csv").write_text("\n".join(line for line in lines if not line.endswith((" 2", " 5"))))
    names = (data / "classes.txt").read_text().split()
    [finding] = check(cfg, ["val"], workers=0).findings
    assert finding[:2] == ("val", None) and finding.detail == f"no video of {names[2]}, {names[5]}"


def test_equal_numbers_as_names_are_no_leaks(data, cfg):
    """Where each class counts from 1, an equal name does not mean an equal video."""
    for split in ("train", "val"):
        lines = []
        for number, line in enumerate((data / f"{split}.csv").read_text().splitlines()):
            path, label = line.split()
            new = Path(split, label, f"{number // 8:03d}.mp4")
            (data / "videos" / new).parent.mkdir(parents=True, exist_ok=True)
            (data / "videos" / path).rename(data / "videos" / new)
            lines.append(f"{new} {label}\n")
        (data / f"{split}.csv").write_text("".join(lines))
    assert check(cfg, ("train", "val"), workers=0).findings == []


def test_fast_reads_what_a_full_check_need_not_read_again(data, cfg):
    target = data / "videos" / (data / "train.csv").read_text().split()[0]
    damage(target, 2, share=0.3)
    assert check(cfg, ["train"], workers=0, fast=True).findings == []
    report = check(cfg, ["train"], workers=0)
    assert report.read == 16 and [finding.finding for finding in report.findings] == ["damaged"]
    report = check(cfg, ["train"], workers=0, fast=True)
    assert report.read == 0 and [finding.finding for finding in report.findings] == ["damaged"]


@pytest.fixture
def reads(monkeypatch) -> list:
    """Paths that are read from now on; "stop" in a name stops the run there."""
    paths, examine = [], video_scan.examine

    def counted(job):
        if "stop" in job.path:
            raise KeyboardInterrupt
        paths.append(job.path)
        return examine(job)

    monkeypatch.setattr(video_scan, "examine", counted)
    return paths


def test_an_interrupted_check_continues_and_only_changed_files_are_read(data, cfg, reads):
    lines = (data / "train.csv").read_text().splitlines()
    (data / "train.csv").write_text("\n".join([*lines[:5], "stop.mp4 1", *lines[5:]]))
    with pytest.raises(KeyboardInterrupt):
        check(cfg, SPLITS, workers=0)
    assert len(reads) == 5
    (data / "train.csv").write_text("\n".join(lines))
    kept = Path(cfg.OUTPUT_DIR, "check_dataset.jsonl")
    kept.write_text(kept.read_text()[:-20])  # killed while it wrote the fifth
    assert check(cfg, SPLITS, workers=0).read == 21 and len(set(reads)) == 25
    assert all(json.loads(line)["facts"]["frames"] == 16 for line in kept.read_text().splitlines()[5:])
    target = data / "videos" / lines[3].split()[0]
    os.utime(target, (1, 1))
    reads.clear()
    report = check(cfg, SPLITS, workers=0)
    assert reads == [str(target)] and report.findings == [] and (report.files, report.read) == (25, 1)


def crash(job):
    """In place of `examine`: reading one video ends the process."""
    if "crash" in job.path:
        os._exit(1)
    return examine(job)


def test_a_reading_process_that_dies_is_reported(data, cfg, monkeypatch):
    line = append(data, "val", "crash.mp4 1")
    monkeypatch.setattr(processes, "get_context", lambda _: multiprocessing.get_context("fork"))
    monkeypatch.setattr(video_scan, "examine", crash)
    [finding] = check(cfg, ["val"], workers=2).findings
    assert finding[:2] == ("val", line) and "the process that reads it crashes" in finding.detail


def test_videos_noted_in_training_stay_until_they_are_read(data, cfg):
    readable = str(data / "videos" / (data / "train.csv").read_text().split()[0])
    os.makedirs(cfg.OUTPUT_DIR)
    for path in (readable, "elsewhere.mp4"):
        BadVideos(cfg.OUTPUT_DIR).add(BadVideo(path, "could not be read"))
    check(cfg, ["train"], workers=0, fast=True)
    assert set(BadVideos(cfg.OUTPUT_DIR).videos) == {readable, "elsewhere.mp4"}
    check(cfg, ["train"], workers=0)
    assert set(BadVideos(cfg.OUTPUT_DIR).videos) == {"elsewhere.mp4"}


def test_folders_of_frames(demo, tiny, tmp_path):
    for part in ("sth", "frames"):
        shutil.copytree(demo / part, tmp_path / part)
    sth = ["TRAIN.DATASET", "sth", "TEST.DATASET", "sth", "DATA.LABEL_PATH_TEMPLATE", "{}.csv"]
    sth += ["DATA.PATH_TO_DATA_DIR", str(tmp_path / "sth"), "DATA.PATH_PREFIX", str(tmp_path / "frames")]
    cfg = load_config(None, [*tiny, *sth])
    assert check(cfg, ["val"], workers=0).findings == []
    folders = [tmp_path / "frames" / line.split()[0] for line in (tmp_path / "sth/val.csv").open()]
    (folders[0] / "00007.jpg").unlink()
    shorten(folders[1] / "00016.jpg", 0.5)
    with Image.open(folders[2] / "00002.jpg") as image:
        image.resize((30, 20)).save(folders[2] / "00002.jpg")
    shutil.rmtree(folders[3])
    for folder in folders[:3]:
        os.utime(folder, (1, 1))
    report = check(cfg, ["val"], workers=0)
    assert [(finding.line, finding.finding) for finding in report.findings] == [
        (1, "unreadable"),
        (2, "unreadable"),
        (3, "variable size"),
        (4, "unreadable"),
    ]
    assert "00007.jpg" in report.findings[0].detail and "00016.jpg" in report.findings[1].detail


@pytest.fixture
def run_check(command, tiny, data):
    """Call `uniformer check` on the lists in `data`; returns exit status, standard output and standard error."""
    places = ["DATA.PATH_TO_DATA_DIR", data, "DATA.PATH_PREFIX", data / "videos"]

    def call(*arguments):
        return command("check", "--workers", 0, "--cfg", ROOT / "tests/empty.yaml", *arguments, *tiny, *places)

    return call


def test_weights_of_the_wrong_size_are_noted(run_check, tmp_path):
    path = tmp_path / "uniformer_small_k400_16x4.pth"
    path.write_bytes(bytes(100))
    status, out, _ = run_check("--splits", "val", "--fast", "MODEL.INIT_FROM", path)
    assert status == 0 and f"\nnote: MODEL.INIT_FROM: {path}: it has 100 bytes instead of 85,735,325: it is not" in out


def test_a_batch_that_does_not_suit_the_list_is_noted(run_check):
    for machines, note in ((1, "16 videos in batches of 8 are only 2 steps"), (3, "TRAIN.BATCH_SIZE: the train list")):
        status, out, _ = run_check("--splits", "train", "--fast", "NUM_SHARDS", machines)
        assert status == 0 and f"\nnote: {note}" in out
    assert "note: " not in run_check("--splits", "val", "--fast")[1]


def test_exit_status_and_summary(run_check, data):
    status, out, _ = run_check()
    assert status == 0 and out.startswith("25 files\n") and "nothing found" in out
    assert "each with 2 videos" in out and "to 2 videos" in out
    assert run_check()[1].startswith("25 files, all read before\n")
    write_video(data / "videos" / "short.mp4", **{**SMALL, "frames": 3})
    append(data, "train", "short.mp4 2")
    status, out, _ = run_check()
    assert status == 0 and "short: 1 (for your information)" in out
    for number in range(7):
        append(data, "val", f"gone{number}.mp4 2")
    assert run_check("--splits", "train")[0] == 0
    status, out, _ = run_check("--splits", "val")
    assert status == 1 and "unreadable: 7 (to fix)" in out and "and 2 more" in out
    path = data / "videos/gone0.mp4"
    assert out.count(str(path)) == 1 and f"{path}: No such file or directory" in out
    for _ in range(2):
        append(data, "test", "gone0.mp4 2")
    status, out, _ = run_check("--splits", "val", "test")
    assert "unreadable: 7 (to fix)\n  val line 10, test line 10, test line 11: " in out, "one file in several lines"
    rows = list(csv.reader((Path(out.split("all findings: ")[1].split("\n")[0])).open(newline="")))
    assert [row[4] for row in rows if row[2] == str(path)].count("No such file or directory") == 3
    assert run_check("--splits", "tests")[0] == 2
    (data / "test.csv").unlink()
    status, out, err = run_check()
    assert (status, out, err.count("\n")) == (2, "", 1) and "test.csv: cannot read the test list" in err
    assert "TEST.ENABLE False" in err and run_check("TEST.ENABLE", False)[0] == 1, "the remedy of the message"


def test_labels_in_another_order(data, cfg, run_check):
    """The demo data has a folder for each class. Shifted labels are valid, and to be fixed."""
    path = data / "val.csv"
    rows = [line.split() for line in path.read_text().splitlines()]
    path.write_text("".join(f"{video} {(int(label) + 1) % 8}\n" for video, label in rows))
    (finding,) = [each for each in check(cfg, ["train", "val"], workers=0).findings if each.finding == "label order"]
    assert finding[:4] == ("val", None, str(path), "label order")
    assert "have label 0, but 7 by the class names; 8 folders in all" in finding.detail
    status, out, _ = run_check("--splits", "train", "val")
    assert status == 1 and "label order: 1 (to fix)\n  val list: " in out


def test_an_output_folder_that_cannot_be_written(cfg, tmp_path):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(tmp_path / "file" / "run")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="OUTPUT_DIR: cannot write"):
        check(cfg, ["val"], workers=0)


def test_wrong_videos_of_a_json_list_are_findings(tiny, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({f"Moving {k}": str(k) for k in range(8)}))
    entries = [{"id": str(k), "template": f"Moving [{k}]"} for k in (0, 9, 1)]
    (tmp_path / "train.json").write_text(json.dumps(entries))
    write_video(tmp_path / "0.webm", codec="libvpx-vp9", size=(40, 40), frames=6)
    keys = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.PATH_PREFIX", str(tmp_path), "TRAIN.DATASET", "sthv2_json"]
    findings = check(load_config(None, [*tiny, *keys]), ["train"], workers=0).findings
    assert [finding[1:4] for finding in findings if finding.line] == [
        (2, "9", "wrong line"),
        (3, str(tmp_path / "1.webm"), "unreadable"),
    ]
    assert findings[2].detail == "no class is named 'Moving 9'; correct labels.json or DATA.CLASS_NAMES"


def test_segments_are_samples_of_their_own_and_must_be_in_the_video(data, cfg, run_check):
    write_video(data / "videos" / "long.mp4", **{**SMALL, "frames": 50})  # two seconds
    lines = ["0,0.5", "0.5,1", "2.5,3", "1,9", "0.9,0.95", "0,0.5", "0,0.5"]
    labels = [1, 2, 1, 2, 1, 1, 2]
    rows = [f"long.mp4,{times},{label}\n" for times, label in zip(lines, labels, strict=True)]
    (data / "train.csv").write_text("path,start,end,label\n" + "".join(rows))
    report = check(cfg, ["train"], workers=0)
    assert (report.files, report.read) == (1, 1)
    assert [finding[1:2] + finding[3:] for finding in report.findings if finding.line] == [
        (4, "beyond the end", "a segment from 2.5 to 3 s, and the video ends at 2 s"),
        (5, "ends later", "the segment ends at 9 s, the video at 2 s"),
        (6, "short", "1 frame in the segment; DATA.NUM_FRAMES is 4"),
        (7, "duplicate", "same path as line 2 of train"),
        (8, "duplicate", "same path as line 2 of train"),
        (8, "contradiction", "same path as line 2 of train, which has label 1"),
    ]
    assert run_check("--splits", "train")[0] == 1


def test_planted_leaks_are_found(data, cfg):
    """A clip of a recording that training has, by its name; a copy that was encoded anew; segments of one video."""
    videos = data / "videos"
    for number, name in enumerate(("rec7_clip1", "rec7_clip2", "long")):
        write_video(videos / f"{name}.mp4", **{**SMALL, "gop": number + 3, "times": range(number, number + 16)})
    source = next(path for path in (data / "train.csv").read_text().split() if path.endswith("mp4"))
    with open_sample(Sample(str(videos / source), -1), "") as video, av.open(str(videos / "anew.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 56
        for frame in video.read(range(video.frames), 56):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        out.mux(stream.encode(None))
    rows = {"train": ["rec7_clip1.mp4,,,1", "long.mp4,0,0.3,2", "long.mp4,0.5,0.6,2"]}
    rows["val"] = ["rec7_clip2.mp4,,,1", "long.mp4,0.35,0.45,2", "anew.mp4,,,3"]
    rows["test"] = ["long.mp4,0.2,0.4,2"]
    at = {}
    for split, more in rows.items():
        path = data / f"{split}.csv"
        old = [f"{line.split()[0]},,,{line.split()[1]}" for line in path.read_text().splitlines()]
        at[split] = len(old) + 2
        path.write_text("\n".join(["path,start,end,label", *old, *more]) + "\n")
    findings = {finding[:2] + finding[3:] for finding in check(cfg, SPLITS, workers=0).findings}
    train, val = at["train"], at["val"]
    assert ("val", val, "same source", f"by its name, as line {train} of train, {videos}/rec7_clip1.mp4") in findings
    detail = f"2 segments of this video in train, too, first line {train + 1}"
    assert ("val", val + 1, "same source", detail) in findings
    overlap = f"overlaps 0 to 0.3 s of the same video, line {train + 1} of train"
    assert ("test", at["test"], "leak", overlap) in findings
    line = 1 + [row.split(",")[0] for row in (data / "train.csv").read_text().splitlines()].index(source)
    assert ("val", val + 2, "look-alike", f"as line {line} of train, {videos / source}") in findings
    odd = {finding for finding in findings if finding[2] in ("same source", "look-alike", "leak")}
    assert len(odd) == 4, odd


def test_classes_with_a_single_training_video_are_named(data, cfg):
    lines = (data / "train.csv").read_text().splitlines()
    (data / "train.csv").write_text("\n".join([line for line in lines if not line.endswith(" 3")] + ["x.mp4 3"]))
    names = (data / "classes.txt").read_text().split()
    [finding] = [finding for finding in check(cfg, ["train"], workers=0).findings if finding.finding == "few videos"]
    assert finding[:2] == ("train", None) and finding.detail == f"fewer than 2 videos of {names[3]}"


def test_groups_on_both_sides_are_leaks(data, cfg):
    for split, group in (("train", "ann"), ("val", "ann"), ("test", "ben")):
        rows = [line.split() for line in (data / f"{split}.csv").read_text().splitlines()]
        text = "".join(
            f"{path},{label},{group if number else 'x'}{split}\n" for number, (path, label) in enumerate(rows)
        )
        (data / f"{split}.csv").write_text("path,label,group\n" + text.replace("annval", "anntrain"))
    assert [finding[:2] + finding[3:] for finding in check(cfg, SPLITS, workers=0).findings] == [
        ("val", 3, "leak", "of the group anntrain, as line 3 of train")
    ]
