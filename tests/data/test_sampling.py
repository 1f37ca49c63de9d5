"""Frame numbers against those recorded from the releases (tests/golden/sampling/temporal.json.gz)."""

import gzip
import json
import random

import numpy as np
import pytest
from conftest import ROOT

from slowfast_uniformer.data.sampling import dense, sparse, split_view

FILE = ROOT / "tests/golden/sampling/temporal.json.gz"
GOLDEN = json.loads(gzip.decompress(FILE.read_bytes()))


def rows(table):
    """Rows of a table that is not empty."""
    assert GOLDEN[table]["rows"]
    return GOLDEN[table]["rows"]


def check(table, numbers_of):
    """Every row's last entry equals numbers_of(the entries before)."""
    wrong = [row for row in rows(table) if numbers_of(*row[:-1]).tolist() != row[-1]]
    assert not wrong, f"{len(wrong)} of {len(rows(table))} rows differ, the first {wrong[0]}"


def test_dense():
    check("dense_decord", lambda total, n, rate, k, of, offset, *_: dense(total, n, rate, k, of, offset))


def test_dense_in_seconds():
    def numbers(total, fps, n, rate, k, of, offset, *_):
        return dense(total, n, rate, k, of, offset, fps, GOLDEN["dense_fps_full_decode"]["target_fps"])

    check("dense_fps_full_decode", numbers)


def test_dense_in_seconds_in_an_already_cut_stretch():
    check(
        "dense_selective_second_stage",
        lambda total, fps, n, rate, offset, *_: dense(total, n, rate, 0, 1, offset, fps, 30),
    )


def test_dense_of_frame_folders():
    check("hmdb_v1", lambda total, n, rate, k, of, offset: dense(total, n, rate, k, of, offset) + 1)


def test_sparse():
    check("sparse_v2", sparse)


def test_sparse_in_a_part_of_a_video():
    check("sparse_v2_with_segment", sparse)


def test_sparse_of_something_something():
    assert GOLDEN["sth_test_val"]["overflow"] == []
    check("sth_test_val", lambda total, n, of, k: sparse(total, n, k, of) + 1)


@pytest.mark.parametrize(("table", "first"), [("sparse_v2_train_seeded", 0), ("sth_train_seeded", 1)])
def test_sparse_training_draws_as_the_releases_do(table, first):
    def seeded(seed, total, n):
        random.seed(seed)
        return sparse(total, n) + first

    check(table, seeded)


def test_views():
    # the releases took the left crop of Something-Something and HMDB as the only one; here it is the centre
    for temporal_views, crops, expected, _ in rows("view_index"):
        assert [list(split_view(v, crops)) for v in range(temporal_views * crops)] == expected


def test_every_table_is_covered():
    dense_tables = {"dense_decord", "dense_fps_full_decode", "dense_selective_second_stage", "hmdb_v1"}
    sparse_tables = {"sparse_v2", "sparse_v2_with_segment", "sparse_v2_train_seeded"}
    assert set(GOLDEN) == {*dense_tables, *sparse_tables, "sth_test_val", "sth_train_seeded", "view_index"}


def test_dense_training_window_starts_anywhere():
    random.seed(0)
    clips = [dense(100, 8, 4) for _ in range(400)]
    assert {int(clip[0]) for clip in clips} == set(range(68))  # 100 frames less a window of 32
    assert {int(clip[-1] - clip[0]) for clip in clips} <= {31, 32}  # truncation of a fractional start
    assert dense(10, 8, 4).tolist() == [0, 4, 8, 9, 9, 9, 9, 9]


def test_sparse_training_reaches_every_frame_and_stays_in_its_part():
    random.seed(0)
    clips = np.array([sparse(33, 4) for _ in range(300)])
    for segment, drawn in enumerate(clips.T):
        assert set(drawn.tolist()) == set(range(8 * segment, 8 * segment + 9))
    part = np.array([sparse(33, 4, start=20, last=45) for _ in range(100)])
    assert part.min() >= 20 and part.max() == 45


def test_sparse_never_leaves_the_video():
    random.seed(0)
    for total in range(1, 70):
        for n in (1, 3, 8, 32):
            numbers = np.stack([sparse(total, n), sparse(total, n, 0, 1), sparse(total, n, 9, 10)])
            assert numbers.min() >= 0 and numbers.max() < total and (np.diff(numbers) >= 0).all()


def test_a_part_without_last_ends_with_itself():
    assert sparse(1, 3, 0, 1, start=7).tolist() == [7, 7, 7]
    assert sparse(20.5, 4, 9, 10, start=100).max() < 120
