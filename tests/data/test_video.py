"""Folders of images as videos; files are in test_decode.py."""

import numpy as np
import pytest
import video_factory as factory
from PIL import Image

from slowfast_uniformer.data import folders
from slowfast_uniformer.data.video import FrameFolder, VideoError, VideoInfo


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
        with pytest.raises(ValueError, match="has 6 frames"):
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
