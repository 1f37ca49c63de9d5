"""Wording that messages share."""

import pytest

from slowfast_uniformer.wording import counted, did_you_mean


@pytest.mark.parametrize(
    "count, noun, text",
    [
        (1, "video", "1 video"),
        (0, "video", "0 videos"),
        (2000, "step", "2,000 steps"),
        (1, "process", "1 process"),
        (2, "class", "2 classes"),
        (3, "class name", "3 class names"),
    ],
)
def test_counts(count, noun, text):
    assert counted(count, noun) == text


def test_only_a_similar_word_is_suggested():
    assert did_you_mean("trian", ["test", "train", "plan"]) == "; did you mean train?"
    assert did_you_mean("xyzzy", ["test", "train", "plan"]) == ""
