"""Videos are shown as their display matrix says: turned, mirrored, or as they are where it says nothing."""

import math
from functools import partial
from itertools import product

import av
import numpy as np
import pytest
import video_factory as factory
from PIL import Image, ImageOps

from slowfast_uniformer.data.decode import Video, probe, read_frames

MATRICES = [(a, 0, 0, d) for a, d in product((1, -1), repeat=2)] + [
    (0, b, c, 0) for b, c in product((1, -1), repeat=2)
]  # the eight that map a pixel grid onto a pixel grid


@pytest.fixture(scope="module")
def upright(tmp_path_factory):
    path = factory.write_video(tmp_path_factory.mktemp("upright") / "a.mp4", frames=20, **factory.X264)
    return path, read_frames(path, [0, 9])


@pytest.fixture
def turned(upright, tmp_path):
    """The upright video with another display matrix."""

    def write(*matrix):
        path = tmp_path / "turned.mp4"
        path.write_bytes(upright[0].read_bytes())
        return factory.display_matrix(path, *matrix)

    return write


def shown(picture, a, b, c, d):
    """Each pixel moved as the definition of the matrix says."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width]
    to_x, to_y = a * x + c * y, b * x + d * y
    result = np.empty((np.ptp(to_y) + 1, np.ptp(to_x) + 1, 3), np.uint8)
    result[to_y - to_y.min(), to_x - to_x.min()] = picture
    return result


@pytest.mark.parametrize("matrix", MATRICES)
def test_all_eight_orientations(upright, turned, matrix):
    path = turned(*matrix)
    expected = np.stack([shown(picture, *matrix) for picture in upright[1]])
    np.testing.assert_array_equal(read_frames(path, [0, 9]), expected)
    info, determinant = probe(path), matrix[0] * matrix[3] - matrix[1] * matrix[2]
    assert info.mirrored == (determinant < 0)
    assert (info.height, info.width) == expected.shape[1:3]
    scaled = read_frames(path, [9], short_side=32)
    assert scaled.shape[1:3] == ((32, 48) if info.width == 96 else (48, 32))
    small = shown(read_frames(upright[0], [9], short_side=32)[0], *matrix)
    np.testing.assert_array_equal(scaled[0], small)


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (1, 0, 0, 0), (0, -1, 0, 0), (1, 1, 1, 1), (0, -2, 0, 4)])
def test_a_matrix_without_inverse_says_nothing(upright, turned, matrix):
    path = turned(*matrix)
    np.testing.assert_array_equal(read_frames(path, [0, 9]), upright[1])
    assert (probe(path).rotation, probe(path).mirrored) == (0, False)


@pytest.mark.parametrize("degrees, rotation", [(10, 0), (-44, 0), (46, 270), (91, 270), (181, 180), (260, 90)])
@pytest.mark.parametrize("mirror", [1, -1])
def test_other_angles_count_as_the_nearest_right_one(turned, degrees, rotation, mirror):
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    info = probe(turned(3 * mirror * cosine, 3 * mirror * sine, -sine, cosine))  # clockwise, also stretched
    assert (info.rotation, info.mirrored) == (rotation, mirror == -1)


def say_orientation(packets, header):
    """Begin the first packet with an SEI message: mirror left to right, then turn counterclockwise by 90 degrees."""
    bits = f"010{1 << 14:016b}1".ljust(24, "0")  # not cancelled, the two flips, the angle, valid for how long
    message = b"\0\0\0\1" + header + bytes([47, 3]) + int(bits, 2).to_bytes(3) + b"\x80"
    packet = av.Packet(message + bytes(packets[0]))
    for name in ("pts", "dts", "time_base", "stream", "is_keyframe"):
        setattr(packet, name, getattr(packets[0], name))
    return [packet, *packets[1:]]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize(
    "codec, header, options", [("libx264", b"\x06", factory.X264), ("libx265", b"\x4e\x01", factory.X265)]
)
def test_the_stream_can_say_it_in_its_first_packet_alone(tmp_path, codec, header, options, name):
    edit = partial(say_orientation, header=header)
    path = factory.write_video(tmp_path / name, codec=codec, frames=40, edit=edit, **options)
    with av.open(path) as container:
        container.streams.video[0].thread_type = "NONE"
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    expected = np.stack([np.rot90(stored[number][:, ::-1]) for number in (0, 15, 39)])
    for numbers in ([0, 1, 2], [2], [1], [0]):
        with Video(path) as video:
            got = video.read([[0, 15, 39][number] for number in numbers])
            np.testing.assert_array_equal(got, expected[numbers])
            assert (video.info.rotation, video.info.mirrored) == (90, True)


def test_a_picture_is_shown_as_its_camera_says(tmp_path):
    picture = np.kron(np.random.RandomState(0).randint(0, 256, (6, 4, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.jpg"
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(picture).save(path, quality=95, subsampling=0, exif=exif)
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), int)
        shown = read_frames(path, [0])[0]
        assert shown.shape == expected.shape and np.abs(shown - expected).mean() < 3
