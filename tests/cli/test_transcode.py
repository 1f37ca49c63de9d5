"""`uniformer transcode`: what is written, what is printed, exit status."""

import pytest

from slowfast_uniformer.data import transcode
from slowfast_uniformer.data.decode import Video


@pytest.fixture
def videos(demo, tmp_path):
    """The demo's lists and videos in a folder, with a broken one."""
    folder = tmp_path / "videos"
    folder.mkdir()
    names = (demo / "val.csv").read_text().split("\n")[:3]
    for line in names:
        source = folder / line.split()[0]
        source.parent.mkdir(exist_ok=True)
        source.write_bytes((demo / "videos" / line.split()[0]).read_bytes())
    (folder / "broken.mp4").write_bytes(b"not a video")
    (folder / "val.csv").write_text("\n".join([*names, "broken.mp4 1\n"]))
    (folder / "classes.txt").write_bytes((demo / "classes.txt").read_bytes())
    return folder


@pytest.mark.parametrize("what", ["folder", "list"])
def test_lists_and_class_names_lie_beside_the_new_videos(videos, tmp_path, command, what):
    out = tmp_path / "new"
    source = [videos] if what == "folder" else [videos / "val.csv", "--prefix", videos]
    words = [source[0], out, *source[1:], "--workers", "0", "--short-side", "32", "--gop", "8"]
    status, printed, errors = command("transcode", *words)
    assert status == 2 and errors.count("error: ") == 1 and "videos/broken.mp4: " in errors
    lines = (videos / "val.csv").read_text().splitlines()
    assert (out / "val.csv").read_text().splitlines() == lines[:3]
    assert (out / "classes.txt").read_bytes() == (videos / "classes.txt").read_bytes()
    assert {path.name for path in out.iterdir()} >= {"transcode.jsonl", "val.csv"} and not (out / "broken.mp4").exists()
    for line in lines[:3]:
        with Video(videos / line.split()[0]) as old, Video(out / line.split()[0]) as new:
            assert new.frames == old.frames and min(new.info.width, new.info.height) == 32
    assert f"DATA.PATH_PREFIX {out}" in printed and "3 videos" in printed
    rows = {line.split("  ")[0]: line.split()[-1] for line in printed.splitlines() if line}
    assert rows["short side (median)"] == "32" and rows["frames to a key frame (mean)"] == "8.0"
    (videos / "broken.mp4").write_bytes((videos / lines[0].split()[0]).read_bytes())
    status, printed, errors = command("transcode", *words)
    assert (status, errors) == (0, "") and "3 of 4 videos were written before" in printed
    assert (out / "val.csv").read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "absent: no such list or folder"),
        (["{videos}", "--short-side", "255"], "not an even number"),
        (["{videos}", "--crf", "60"], "60 is not from 0"),
        (["{videos}", "--gop", "0"], "--gop"),
        (["{videos}/val.csv", "--prefix", "{videos}", "--out-is-source"], "would overwrite it"),
        (["{videos}", "--out-is-source"], "is the folder of the videos"),
        (["{videos}/broken.mp4"], "broken.mp4: seems to be a video; give a list"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(videos, tmp_path, command, words, message):
    out = videos if "--out-is-source" in words else tmp_path / "new"
    words = [word.format(videos=videos) for word in words if word != "--out-is-source"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    status, _, errors = command("transcode", words[0], out, *words[1:], "--workers", "0")
    assert status == 2 and message in errors
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_ctrl_c(videos, tmp_path, command, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(transcode, "transcode_one", interrupted)
    status, _, errors = command("transcode", videos, tmp_path / "new", "--workers", "0")
    assert status == 130 and "run the same command again to continue" in errors
