"""One function opens the video of a sample, wherever it is stored."""

import io
import os
import shutil
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import video_factory
from PIL import Image

from slowfast_uniformer.analysis.report_figures import FRAMES, video_strip
from slowfast_uniformer.data.annotations import UNLABELLED, Sample
from slowfast_uniformer.data.input_lists import path_sample
from slowfast_uniformer.data.open_video import open_sample
from slowfast_uniformer.data.video import VideoError
from slowfast_uniformer.errors import UserError

TEMPLATE = "{:05d}.jpg"


@pytest.fixture
def places(tmp_path):
    """A video as a file, a tar member, and a frame folder with a stray file."""
    path = video_factory.write_video(tmp_path / "a.mp4", frames=12, **video_factory.X264)
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        info = tarfile.TarInfo("b.mp4")
        info.size = path.stat().st_size
        archive.addfile(info, io.BytesIO(path.read_bytes()))
    (tmp_path / "frames").mkdir()
    for number, image in enumerate(video_factory.pictures(12, 96, 64), 1):
        Image.fromarray(image).save(tmp_path / "frames" / TEMPLATE.format(number))
    (tmp_path / "frames" / "Thumbs.db").touch()
    return [str(path), str(tmp_path / "s.tar" / "b.mp4"), str(tmp_path / "frames")]


def test_files_tar_members_and_frame_folders(places):
    frames = []
    for path in places:
        with open_sample(path_sample(path, TEMPLATE), TEMPLATE) as video:
            assert video.frames == 12 and (video.info.width, video.info.height) == (96, 64)
            frames.append(video.read([0, 7]))
    assert np.array_equal(frames[0], frames[1])
    assert np.abs(frames[2] - frames[0].astype(int)).mean() < 16


def test_a_folder_counts_as_listed(places):
    with open_sample(Sample(places[2], 3, 5), TEMPLATE) as video:
        assert video.frames == 5
    with pytest.raises(VideoError, match="00013.jpg is missing, and the list says 14 frames"):
        open_sample(Sample(places[2], 3, 14), TEMPLATE)
    with open_sample(Sample(places[2], 3), TEMPLATE) as video:  # nor need a list of folders have frame counts
        assert video.frames == 12
    with pytest.raises(VideoError, match="not a file, but a folder without numbered images"):
        open_sample(Sample(os.path.dirname(places[2]), 3), TEMPLATE)
    with open_sample(Sample(places[0], 3, 5), TEMPLATE) as video:  # a list with frame counts can name files
        assert video.frames == 12


def test_the_decoder_and_its_timeout(places, monkeypatch):
    with pytest.raises(VideoError, match="not read within 1e-09 s"):
        open_sample(path_sample(places[0], TEMPLATE), TEMPLATE, timeout=1e-9)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(UserError, match="DATA.DECODER torchcodec cannot be used"):
        open_sample(Sample(places[0], UNLABELLED), TEMPLATE, "torchcodec")


def test_a_stray_file_in_a_frame_folder_does_not_cost_the_strip_of_a_report(places):
    run = SimpleNamespace(find=lambda path: path, config={})
    strips = [video_strip(run, path) for path in places]
    assert [len(strip) for strip in strips] == [FRAMES] * 3
    shutil.rmtree(places[2])
    assert video_strip(run, places[2]) == []
    segment = video_strip(run, places[0], 0.1, 0.3)
    assert len(segment) == FRAMES and segment != strips[0] and video_strip(run, places[0], 99, 100) == []
