"""What tests of inference share: a predictor and a long video."""

import pytest
import video_factory

from slowfast_uniformer.inference.predictor import load_model


@pytest.fixture(scope="session")
def model(trained):
    """The predictor of the session's trained run."""
    return load_model(trained)


@pytest.fixture(scope="session")
def long_video(tmp_path_factory):
    """Eight seconds."""
    return video_factory.write_video(tmp_path_factory.mktemp("long") / "long.mp4", frames=200)
