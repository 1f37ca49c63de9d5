"""Videos in tar files: the lists, the bytes, the clips, and what is wrong with bad tars."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.dataset import VideoDataset
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.make_lists import make_lists, write_lists
from slowfast_uniformer.data.shards import ByteRange, exists, opener
from slowfast_uniformer.data.video import VideoError
from slowfast_uniformer.errors import UserError


def tar_of(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def shards(demo, tmp_path):
    """The demo's lists as tar files: training with class names in JSON, validation with labels."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for split, count in (("train", 3), ("val", 1)):
        rows = [line.split() for line in (demo / f"{split}.csv").read_text().splitlines()]
        for k in range(count):
            members = []
            for path, label in rows[k::count]:
                key = Path(path).stem
                members.append((f"{key}.mp4", (demo / "videos" / path).read_bytes()))
                about = (
                    (f"{key}.json", json.dumps({"label": int(label)})) if split == "train" else (f"{key}.cls", label)
                )
                members.append((about[0], about[1].encode()))
            tar_of(folder / f"{split}-{k:03d}.tar", members)
    shutil.copy(demo / "classes.txt", folder)
    return folder


@pytest.fixture
def tar_lists(shards, tmp_path):
    """The lists of the tar files."""
    write_lists(tmp_path / "lists", make_lists(shards))
    return tmp_path / "lists"


def test_tar_files_give_the_clips_of_their_files(tar_lists, shards, tiny, demo):
    assert (tar_lists / "classes.txt").read_text() == (demo / "classes.txt").read_text()
    overrides = [*tiny, "DATA.PATH_TO_DATA_DIR", str(tar_lists), "DATA.PATH_PREFIX", str(shards)]
    for split in ("train", "test"):
        ours, theirs = (VideoDataset(load_config(None, keys), split) for keys in (overrides, tiny))
        where = {Path(sample.path).stem: k for k, sample in enumerate(theirs.samples)}
        assert len(ours) == len(theirs)
        for sample in ours.samples[:5]:
            name = sample.path.split("/")[-1].split(".")[0]
            assert sample.label == theirs.samples[where[name]].label
            frames = [
                source.read(range(0, 16, 3))
                for source in (Video(sample.path, opener(sample.path)), Video(theirs.samples[where[name]].path))
            ]
            assert np.array_equal(*frames)
            by_name = sample.path.split("@")[0]  # without the bytes, the tar is looked through
            assert opener(by_name)().read() == opener(sample.path)().read()
    assert torch.equal(ours[0, 2]["clips"], theirs[0, where[Path(ours.samples[2].path.split("@")[0]).stem]]["clips"])


def test_a_run_with_workers_on_tar_files(tar_lists, shards, tiny, run_net, tmp_path):
    overrides = [*tiny, "DATA.PATH_TO_DATA_DIR", str(tar_lists), "DATA.PATH_PREFIX", str(shards)]
    quick = ["SOLVER.MAX_EPOCH", 1, "TEST.NUM_ENSEMBLE_VIEWS", 1, "TEST.NUM_SPATIAL_CROPS", 1]
    status, _, errors = run_net([*overrides, *quick, "TRAIN.BATCH_SIZE", 2, "DATA_LOADER.NUM_WORKERS", 1])
    assert status == 0, errors
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["split"] == "test_final" and rows[-1]["coverage"] == 100


def test_tar_files_that_are_not_as_they_should_be(shards, tmp_path):
    paths = {"absent.tar/a.mp4": "No such file", f"{shards}/train-000.tar/b.mp4": "holds no b.mp4"}
    (tmp_path / "no.tar").write_text("x" * 2000)
    paths[f"{tmp_path}/no.tar/a.mp4"] = "not an uncompressed tar"
    for path, cause in paths.items():
        with pytest.raises(VideoError, match=cause):
            Video(path, opener(path))
    assert opener("videos/a.mp4") is None and opener(f"{tmp_path}/run.tar.mp4") is None
    folder = tmp_path / "bad"
    folder.mkdir()
    for members, part in (
        ([("a.mp4", b"")], "neither a.cls nor a.json"),
        ([("a.mp4", b""), ("a.json", b"[]")], "a.json: no JSON object"),
        ([("a.txt", b"")], "no videos"),
    ):
        tar_of(folder / f"{len(part)}.tar", members)
        with pytest.raises(UserError, match=part):
            make_lists(folder, val=0.5, extensions="mp4")
        (folder / f"{len(part)}.tar").unlink()


def test_a_byte_range_is_a_file_of_its_own(tmp_path):
    content = bytes(range(200))
    (tmp_path / "x").write_bytes(content)
    with ByteRange(str(tmp_path / "x"), 50, 100) as file:
        assert file.readable() and file.seekable() and file.tell() == 0
        assert file.read(10) == content[50:60] and file.tell() == 10
        assert file.seek(-5, os.SEEK_END) == 95 and file.read(50) == content[145:150] and file.read(1) == b""
        assert file.seek(-20, os.SEEK_CUR) == 80 and file.read() == content[130:150]
        assert file.seek(-7, os.SEEK_SET) == 0 and file.readall() == content[50:150]
        assert file.seek(500) == 500 and file.read() == b""
    assert file.closed


def test_members_exist(shards):
    tar = next(shards.glob("val*.tar"))
    with tarfile.open(tar) as archive:
        name = archive.getnames()[0]
    assert exists(f"{tar}/{name}") and exists(f"{tar}/{name}@512+20") and exists(str(tar))
    assert not exists(f"{tar}/{name}@512+20 3") and not exists(f"{tar}/none.mp4") and not exists("none.tar/a.mp4")
    assert not exists("none.tar/a.mp4@1+2")
