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
