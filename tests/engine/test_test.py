"""Which checkpoint a test takes."""

import os

import pytest
from conftest import tiny_overrides

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine.test import checkpoint_to_test
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import checkpoints


def test_the_order_of_the_checkpoints_to_test(demo, trained, tmp_path):
    def found(*overrides, out=trained):
        return checkpoint_to_test(load_config(None, [*tiny_overrides(demo, out), *overrides]))

    latest = checkpoints.checkpoint_path(str(trained), 2)
    assert found() == found("MODEL.INIT_FROM", "initial.pyth") == found("TEST.TEST_BEST", True) == latest
    assert found("TEST.CHECKPOINT_FILE_PATH", "given.pyth") == "given.pyth"
    assert found("TEST.CHECKPOINT_FILE_PATH", str(trained)) == latest, "a run's folder"
    out = tmp_path / "run"
    assert found("MODEL.INIT_FROM", "initial.pyth", out=out) == "initial.pyth"
    with pytest.raises(UserError, match="nothing to test: .*TEST.CHECKPOINT_FILE_PATH"):
        found(out=out)
    with pytest.raises(UserError, match="nothing to test: .*uniformer weights list"):
        found("MODEL.INIT_FROM", "uniformer_small_in1k", out=out)  # an image model
    assert found("MODEL.INIT_FROM", "k400/uniformer_s", out=out) == "k400/uniformer_s"
    best = checkpoints.best_path(str(out))
    os.makedirs(os.path.dirname(best))
    os.link(latest, best)
    assert found("TEST.TEST_BEST", True, out=out) == best
    assert found("TEST.CHECKPOINT_FILE_PATH", str(out)) == best
    with pytest.raises(UserError, match="a folder without checkpoints"):
        found("TEST.CHECKPOINT_FILE_PATH", str(tmp_path))
