"""What decoding a training clip takes: frames that are gone through, counted, and what transcoding would save."""

import pytest
from video_factory import X264, write_video

from slowfast_uniformer.analysis.decoding_cost import DecodingCost, measure
from slowfast_uniformer.cli.check import decoding
from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.annotations import Sample
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.data.encode import Settings, encode

FROM_THE_START = ["DATA.NUM_FRAMES", "8", "DATA.SAMPLING_RATE", "8"]  # a window of 64 frames
NO_SCENES = {"x264-params": "log=-1:scenecut=0"}  # which add key frames


@pytest.fixture
def cfg(tiny):
    return load_config(None, [*tiny, *FROM_THE_START])


def test_frames_from_the_key_frames_before_are_counted(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=64, gop=16, bframes=0, **NO_SCENES)
    with Video(path) as video:
        assert video.frames_to_decode([0]) == 1
        assert video.frames_to_decode([20, 40]) == (20 - 16 + 1) + (40 - 32 + 1)
        assert video.frames_to_decode([20, 30, 31]) == 31 - 16 + 1
        video._index = None
        assert video.frames_to_decode([20, 40]) == 41, "from the start"


def test_rare_key_frames_and_large_frames_are_what_transcoding_saves(cfg, tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=64, gop=250, bframes=0, size=(960, 640), **NO_SCENES)
    cost = measure(cfg, [Sample(str(path), 0)])
    # The only window has frames 0, 9, 18, 27, 36, 45, 54, 63. With key frames 0, 16, 32, 48 some are not gone through.
    after = 2 * (10 + 12 + 14 + 16)
    assert (cost.clips, cost.wanted, cost.decoded, cost.decoded_after) == (2, 16, 2 * 64, after)
    assert cost.in_vain == 0.875 and cost.gain == (128 * 960 * 640) / (after * 480 * 320)
    assert "clip of 8 frames takes 64 decoded frames (88% of them unused)" in decoding(cost)
    assert "4.9 times fewer pixels" in decoding(cost)


def test_a_transcoded_collection_gains_little_as_was_estimated(tiny, tmp_path):
    cfg = load_config(None, [*tiny, "DATA.NUM_FRAMES", "2", "DATA.SAMPLING_RATE", "4"])
    path = write_video(tmp_path / "a.mp4", frames=120, gop=250, bframes=0, **NO_SCENES)
    before = measure(cfg, [Sample(str(path), 0)])
    encode(Sample(str(path), 0), tmp_path / "b.mp4", Settings(), "")
    after = measure(cfg, [Sample(str(tmp_path / "b.mp4"), 0)])
    assert before.decoded > 2 * after.decoded
    # B-frames are decoded after frames that are shown later: up to two more or fewer in each run.
    assert abs(before.decoded_after - after.decoded) <= 2 * before.wanted
    assert "would save little" in decoding(after)


def test_frame_folders_and_unreadable_videos_are_left_out(cfg, tmp_path):
    good = write_video(tmp_path / "good.mp4", frames=64, **X264)
    (tmp_path / "bad.mp4").write_text("no video")
    bad, missing = Sample(str(tmp_path / "bad.mp4"), 0), Sample(str(tmp_path / "missing.mp4"), 0)
    assert measure(cfg, [bad, Sample(str(good), 0), missing]).clips == 2
    assert measure(cfg, [bad, missing]) is measure(cfg, []) is None


def test_the_share_in_vain():
    assert DecodingCost(clips=1, wanted=16, decoded=64).in_vain == 0.75
