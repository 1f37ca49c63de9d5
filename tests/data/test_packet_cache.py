"""Packets of long videos are read once in a process, and opening is the same."""

import os

import numpy as np
import pytest
import video_factory as factory

from slowfast_uniformer.data import decode, packet_cache
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.packet_cache import PacketCache
from slowfast_uniformer.data.packet_index import Packet


@pytest.fixture
def reads(monkeypatch):
    """Paths whose packets are read, with a cache of its own for videos of 50 packets and more."""
    read, paths = Video._read_packets, []
    monkeypatch.setattr(packet_cache, "LEAST", 50)
    monkeypatch.setattr(decode, "_packet_cache", PacketCache())
    monkeypatch.setattr(Video, "_read_packets", lambda self, *args: paths.append(self.path) or read(self, *args))
    return paths


@pytest.mark.parametrize("name", ["b_frames.mp4", "a.mkv", "a.avi", "a.ts"])
def test_videos_are_the_same_when_they_are_opened_again(tmp_path, reads, name):
    codec = {".avi": "mpeg4", ".ts": "mpeg2video"}.get(os.path.splitext(name)[1], "libx264")
    path = factory.write_video(tmp_path / name, codec)
    with Video(path) as first, Video(path) as again:
        assert len(reads) == 1 and first.info == again.info and first.times().tolist() == again.times().tolist()
        for numbers in ([40, 41], [3], list(range(60))):
            np.testing.assert_array_equal(first.read(numbers), again.read(numbers))


def test_a_file_that_has_changed_is_read_again_and_short_ones_are_not_kept(tmp_path, reads):
    path = factory.write_video(tmp_path / "a.mp4")
    Video(path).close()
    factory.write_video(path, frames=70)
    with Video(path) as video:
        assert video.frames == 70 and len(reads) == 2
    factory.write_video(path, frames=20)
    Video(path).close(), Video(path).close()
    assert len(reads) == 4


def test_the_cache_is_bounded_and_forgets_the_oldest(monkeypatch):
    monkeypatch.setattr(packet_cache, "LEAST", 1)
    monkeypatch.setattr(packet_cache, "MOST", 10)
    cache = PacketCache()
    videos = {
        k: [Packet(None, -5, True, False, True, 3), *[Packet(n, n, False, n == 2, False, 0) for n in range(k)]]
        for k in (3, 4, 5)
    }
    cache.put(("3",), videos[3], True), cache.put(("4",), videos[4], False)
    assert cache.get(("3",)) == (videos[3], True)
    cache.put(("5",), videos[5], False)
    assert cache.get(("4",)) is None and cache.get(("3",))[0] == videos[3] and cache.get(("5",))[0] == videos[5]
    cache.put(("x",), videos[5] * 3, False)
    assert cache.get(("x",)) is None, "larger than all"
