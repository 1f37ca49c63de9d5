"""Keys that there are not, and words that are no KEY VALUE pair."""

import pytest

from slowfast_uniformer.config.keys import flatten, get_cfg
from slowfast_uniformer.config.suggest import broken_pair, unknown_key


@pytest.mark.parametrize(
    "key, nearest",
    [
        ("solver.max_epoch", "SOLVER.MAX_EPOCH"),
        ("Solver.Max_Epoch", "SOLVER.MAX_EPOCH"),
        ("TRAIN.MAX_EPOCH", "SOLVER.MAX_EPOCH"),
        ("max_epoch", "SOLVER.MAX_EPOCH"),
        ("SOLVER.OPTIMIZER.BASE_LR", "SOLVER.BASE_LR"),
        ("TRIAN.BATCH_SIZE", "TRAIN.BATCH_SIZE"),
        ("BATCH_SIZE", "TRAIN.BATCH_SIZE or TEST.BATCH_SIZE"),
        ("SOLVER.BASELR", "SOLVER.BASE_LR"),
        ("num_gpu", "NUM_GPUS"),
    ],
)
def test_the_nearest_key_has_the_right_section_and_letters(key, nearest):
    assert unknown_key(key) == f"unknown key {key}; did you mean {nearest}?"


@pytest.mark.parametrize("key", ["SOLVER", "solver"])
def test_a_section_is_no_key(key):
    assert unknown_key(key).startswith(f"{key} is a section, not a key; ")


def test_every_key_in_lower_case_is_found():
    for key, _ in flatten(get_cfg()):
        assert key == "MODEL.ARGS" or unknown_key(key.lower()).endswith(f"did you mean {key}?")


@pytest.mark.parametrize(
    "words, message",
    [
        (["SOLVER.MAX_EPOCH=3"], "SOLVER.MAX_EPOCH=3: write SOLVER.MAX_EPOCH 3, with a space between"),
        (["RNG_SEED", "1", "solver.max_epoch=3", "NUM_GPUS", "0"], "solver.max_epoch=3: write SOLVER.MAX_EPOCH 3, "),
        (["SOLVER.MAX_EPOCH:", "3"], "SOLVER.MAX_EPOCH:: write SOLVER.MAX_EPOCH 3, "),
        (["--SOLVER.MAX_EPOCH", "3"], "--SOLVER.MAX_EPOCH: write SOLVER.MAX_EPOCH 3, "),
        (["SOLVER.MAX_EPOCH", "NUM_GPUS", "0"], "SOLVER.MAX_EPOCH has no value: the key NUM_GPUS follows it"),
        (["NUM_GPUS", "0", "SOLVER.MAX_EPOCH"], "SOLVER.MAX_EPOCH has no value; write KEY VALUE pairs"),
        (["DATA.MEAN", "[0.1,", "0.2,", "0.3]"], "DATA.MEAN: put a list in quotes"),
    ],
)
def test_habits_of_other_programs_are_answered_with_what_to_write(words, message):
    assert broken_pair(words).startswith(message)


@pytest.mark.parametrize(
    "words", [[], ["RNG_SEED", 1], ["DATA.MEAN", "[0.1, 0.2]"], ["OUTPUT_DIR", "a=b"], ["NO.KEY", "1"], ["TRACKER", ""]]
)
def test_pairs_are_fine(words):
    assert broken_pair(words) is None
