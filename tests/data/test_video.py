"""Folders of images as videos; files are in test_decode.py."""

import random
from fractions import Fraction

import numpy as np
import pytest
import video_factory as factory
from PIL import Image

from slowfast_uniformer.data import folders
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.video import FrameFolder, SegmentError, VideoError, VideoInfo


@pytest.fixture
def folder(tmp_path):
    for number, picture in enumerate(factory.pictures(6, 60, 40), 1):
        Image.fromarray(picture).save(tmp_path / f"img_{number:05d}.png")
    return tmp_path


def test_folder_of_images(folder):
    expected = np.stack(factory.pictures(6, 60, 40))
    with FrameFolder(folder, "img_{:05d}.png", 6) as images:
        assert images.info == VideoInfo(6, fps=0.0, width=60, height=40, rotation=0, codec="png")
        np.testing.assert_array_equal(images.read([5, 0, 0, 3]), expected[[5, 0, 0, 3]])
        scaled = Image.fromarray(expected[4]).resize((30, 20), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(images.read([4], short_side=20)[0], scaled)
        with pytest.raises(ValueError, match="no frames .* of 6 frames"):
            images.read([6])


def test_folder_shorter_than_its_list_says(folder):
    with pytest.raises(VideoError) as caught:
        FrameFolder(folder, "img_{:05d}.png", 8)
    listed = "the list says 8 frames: there are 6 from img_00001.png"
    assert str(caught.value) == f"cannot read {folder}: img_00007.png is missing, and {listed}"
    with pytest.raises(VideoError, match="nowhere: No such file or directory"):
        FrameFolder(folder / "nowhere", "{:05d}.jpg", 3)


def test_folder_with_a_damaged_image(folder):
    factory.shorten(folder / "img_00003.png", 0.5)
    with FrameFolder(folder, "img_{:05d}.png", 6) as images:
        assert len(images.read([0, 1, 3])) == 3
        with pytest.raises(VideoError, match="img_00003.png: "):
            images.read([2])


@pytest.mark.parametrize("template", ["{:05d}.jpg", "img_%05d.png", "img_{:05d}.png", "{}.png"])
@pytest.mark.parametrize("listed", [None, 6])
@pytest.mark.parametrize(
    "name",
    [
        "{:05d}.jpg.png",
        "img_{:05d}.png",
        "frame{:06d}.png",
        "{}.PNG",
        "v_g01_c02_{:d}.png",
        "f_{:03d}_t0.04s.png",
        "{:02d}_rgb.png",
    ],
)
@pytest.mark.parametrize("first", [0, 1, 7])
def test_images_are_found_whatever_their_names(tmp_path, template, listed, name, first):
    expected = np.stack(factory.pictures(6, 60, 40))
    for number, picture in enumerate(expected, first):
        Image.fromarray(picture).save(tmp_path / name.format(number))
    for other in ("Thumbs.db", ".DS_Store", "._img_00001.png", "notes_1.txt", "cover.png"):
        (tmp_path / other).touch()
    with FrameFolder(tmp_path, template, listed) as images:
        assert images.frames == 6
        np.testing.assert_array_equal(images.read(range(6)), expected)


def test_complete_folders_are_not_looked_through(folder, monkeypatch):
    monkeypatch.delattr(folders.os, "listdir")
    with FrameFolder(folder, "img_%05d.png", 6) as images:
        assert images.read([5]).shape == (1, 40, 60, 3)


def test_a_missing_image_keeps_the_numbers_of_the_others(folder):
    expected = np.stack(factory.pictures(6, 60, 40))
    (folder / "img_00003.png").unlink()
    for template in ("img_{:05d}.png", "{:05d}.jpg"):
        with FrameFolder(folder, template) as images:
            assert images.frames == 6
            np.testing.assert_array_equal(images.read([1, 3, 5]), expected[[1, 3, 5]])
            with pytest.raises(VideoError, match="folder.*: img_00003.png is missing$|: img_00003.png is missing$"):
                images.read([2])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_images_are_shown_as_viewers_do(tmp_path):
    grey = (np.arange(32, dtype=np.uint16).reshape(4, 8) + 1) * 2047
    picture = Image.fromarray(factory.pictures(1, 8, 4)[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    palette = picture.quantize(16)
    alpha = picture.convert("RGBA")
    alpha.putalpha(0)
    cases = {
        "grey": (picture.convert("L"), picture.convert("L").convert("RGB"), {}),
        "bits16": (Image.fromarray(grey), Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB"), {}),
        "alpha": (alpha, picture, {}),
        "palette": (palette, palette.convert("RGB"), {"transparency": 3}),
        "bilevel": (picture.convert("1"), picture.convert("1").convert("RGB"), {}),
        "turned": (picture, picture.transpose(Image.Transpose.ROTATE_270), {"exif": exif}),
        "bad_exif": (picture, picture, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"}),
    }
    for name, (image, expected, options) in cases.items():
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "1.png", **options)
        with FrameFolder(tmp_path / name, "{:05d}.jpg") as images:
            assert (images.info.width, images.info.height) == expected.size, name
            np.testing.assert_array_equal(images.read([0])[0], np.asarray(expected), name)


def test_an_image_that_is_damaged_beyond_what_pillow_expects(folder, monkeypatch):
    def fail(*args):
        raise IndexError("list index out of range")

    with FrameFolder(folder, "img_{:05d}.png", 6) as images:
        monkeypatch.setattr(Image, "open", fail)
        with pytest.raises(VideoError, match="img_00001.png: list index"):
            images.read([0])


RATES = ["25", "29.97", "60", "variable"]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_frames_of_a_segment_are_those_whose_time_is_in_it(tmp_path, rate, ending):
    times = factory.frame_times(rate)
    with Video(factory.write_timed_video(tmp_path / f"a{ending}", times)) as video:
        assert np.abs(video.times() - np.array(times, float)).max() < (1e-9 if ending == ".mp4" else 6e-4)
        stamps = times if ending == ".mp4" else [Fraction(round(1000 * time), 1000) for time in video.times().tolist()]
        draw = random.Random(rate)
        ends = [stamps[k] for k in draw.sample(range(120), 30)] + [Fraction(draw.uniform(0, 5)) for _ in range(30)]
        for start, end in [*zip(ends, ends[1:], strict=False), (Fraction(0), Fraction(1, 1000)), (Fraction(0), 99)]:
            start, end = sorted((float(start), float(end)))
            inside = [k for k, time in enumerate(stamps) if start <= float(time) < end]
            if start < min(end, float(stamps[-1])):
                shown = max(k for k, time in enumerate(stamps) if k == 0 or float(time) <= start)
                assert [*video.segment(start, end)] == (inside or [shown]), (start, end)


def test_decimals_of_a_list_meet_the_times_of_frames(tmp_path):
    """1.2 s is frame 30 at 25 fps, and no number a hair beside it."""
    with Video(factory.write_timed_video(tmp_path / "a.mp4", factory.frame_times("25"))) as video:
        for number in range(120):
            assert video.segment(float(f"{number / 25:.2f}"), 99)[0] == number
            assert len(video.segment(float(f"{number / 25:.2f}"), float(f"{(number + 1) / 25:.2f}"))) == 1
    with Video(factory.write_timed_video(tmp_path / "b.mp4", factory.frame_times("29.97"))) as video:
        assert (video.segment(2.002, 99)[0], video.segment(2.0021, 99)[0], video.segment(1.0, 2.002)[-1]) == (
            60,
            61,
            59,
        )


def test_segments_at_and_beyond_the_end(tmp_path):
    with Video(factory.write_timed_video(tmp_path / "a.mp4", factory.frame_times("25", 50))) as video:
        assert [*video.segment(1.9, 50)] == [48, 49] and [*video.segment(1.97, 1.99)] == [49]
        with pytest.raises(SegmentError, match=r"a.mp4: the segment from 2 to 3 s is beyond its end at 2 s"):
            video.segment(2.0, 3.0)


def test_times_begin_with_the_streams_of_a_transport_stream(tmp_path):
    """Its clock begins anywhere, at 1.4 s as FFmpeg writes it."""
    with Video(factory.write_video(tmp_path / "a.ts", "mpeg2video")) as video:
        assert video.frames == 60 and np.allclose(np.diff(video.times()), 1 / 25, atol=1e-4)
        assert video.times()[0] < 0.1  # B-frames delay the first one


def test_videos_without_time_stamps_have_a_frame_rate(folder, tmp_path):
    with FrameFolder(folder, "img_{:05d}.png") as images:
        assert images.times().tolist() == [number / 30 for number in range(6)]
        assert [*images.segment(0.5, 1.0, unknown_fps=4)] == [2, 3]
        with pytest.raises(SegmentError):
            images.segment(1.5, 2.0, unknown_fps=4)
