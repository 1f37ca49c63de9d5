"""Writing videos."""

import numpy as np
import pytest

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference import video_writer


def test_an_interrupted_video_leaves_no_file(tmp_path):
    def frames():
        yield np.zeros((32, 33, 3), np.uint8)
        raise UserError("the source ends here")

    with pytest.raises(UserError, match="the source ends here"):
        video_writer.write_video(str(tmp_path / "x.mp4"), frames(), 25.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["$a$ b$", "_x", "a\nb", "左手", "يسار", "x" * 10_000, "", "a\udcff"])
def test_any_name_can_be_a_caption(name):
    frame = np.zeros((96, 160, 3), np.uint8)
    drawn = video_writer.caption(frame, [(name, 0.5), ("b", 0.25)])
    assert drawn.shape == frame.shape and drawn[-40:].any() and not drawn[:40].any()
