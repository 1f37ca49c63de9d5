"""The order of the videos on every rank, and the loader's batch sizes."""

import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.class_balance import Draws
from slowfast_uniformer.data.loader import EpochSampler, build_loader
from slowfast_uniformer.data.sample_list import Sample, SampleList
from slowfast_uniformer.errors import UserError


def order(length, world, epoch, batch, shuffle=True):
    samplers = [EpochSampler(length, rank, world, shuffle, seed=5) for rank in range(world)]
    for sampler in samplers:
        sampler.epoch = epoch
    ranks = [[index for _, index in sampler] for sampler in samplers]
    return ranks, [
        {index for rank in ranks for index in rank[start : start + batch // world]}
        for start in range(0, min(map(len, ranks)) - batch // world + 1, batch // world)
    ]


def test_global_batches_do_not_depend_on_the_number_of_ranks():
    assert order(37, 1, 2, 8)[1][:4] == order(37, 2, 2, 8)[1][:4] == order(37, 4, 2, 8)[1][:4]
    assert order(37, 1, 2, 8)[1] != order(37, 1, 3, 8)[1]


def test_training_ranks_are_equally_long_and_testing_drops_nothing():
    ranks, _ = order(37, 4, 0, 4)
    assert {len(rank) for rank in ranks} == {9}
    ranks, _ = order(37, 4, 0, 4, shuffle=False)
    assert sorted(sum(ranks, [])) == list(range(37))
    assert [len(EpochSampler(37, rank, 4)) for rank in range(4)] == [len(rank) for rank in ranks]


def test_a_list_shorter_than_a_batch_is_refused(tiny):
    with pytest.raises(UserError, match="TRAIN.BATCH_SIZE: the train list has 16 videos"):
        build_loader(load_config(None, [*tiny, "TRAIN.BATCH_SIZE", 17]), "train")


def test_batches_per_rank(tiny, monkeypatch):
    """TRAIN.BATCH_SIZE counts videos and TEST.BATCH_SIZE clips of a machine; ranks share both."""
    cfg = load_config(None, [*tiny, "TRAIN.BATCH_SIZE", 6, "TEST.BATCH_SIZE", 24])
    for ranks, train, test in ((1, 6, 4), (2, 3, 2), (3, 2, 1), (6, 1, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        assert build_loader(cfg, "train").batch_size == train and build_loader(cfg, "test").batch_size == test
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(UserError, match="TRAIN.BATCH_SIZE: 6 cannot be divided among 4 processes"):
        build_loader(cfg, "train")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(UserError, match="TRAIN.BATCH_SIZE: the train list has 16 videos, fewer than one batch of 24; "):
        build_loader(cfg, "train")


def test_a_million_videos_are_continued_in_mid_epoch():
    sampler = EpochSampler(10**6, rank=1, world=2, shuffle=True, seed=3)
    whole = [index for _, index in sampler]
    sampler.start = 600_000
    assert [index for _, index in sampler] == whole[300_000:] and len(sampler) == 200_000


@pytest.fixture(scope="module")
def unbalanced() -> Draws:
    return Draws(SampleList.of(Sample(f"{k}.mp4", int(k > 30)) for k in range(37)), 1.0)


def keys_of_epoch(drawn, epoch=2, start=0, world=1, seed=5):
    """What each rank is given of an epoch."""
    ranks = []
    for rank in range(world):
        sampler = EpochSampler(len(drawn.factors), rank, world, shuffle=True, seed=seed, draws=drawn)
        sampler.epoch, sampler.start = epoch, start
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
    return ranks


def test_drawn_videos_are_the_same_for_any_number_of_ranks_and_follow_from_seed_and_epoch(unbalanced):
    (one,) = keys_of_epoch(unbalanced)
    assert len(one) == 37 and sum(index > 30 for _, index, *_ in one) in (18, 19)
    assert len(set(one)) == 37, "a video that comes again has other random draws"
    for world in (2, 4):
        ranks = keys_of_epoch(unbalanced, world=world)
        together = [key for step in zip(*ranks, strict=True) for key in step]
        assert together == one[: len(together)] and len(together) == 37 // world * world
    assert keys_of_epoch(unbalanced)[0] == one
    assert keys_of_epoch(unbalanced, epoch=3)[0] != one != keys_of_epoch(unbalanced, seed=6)[0]


def test_drawn_videos_are_continued_in_mid_epoch(unbalanced):
    """Also on another number of ranks, and with the same numbers of repeats."""
    (one,) = keys_of_epoch(unbalanced)
    assert keys_of_epoch(unbalanced, start=12)[0] == one[12:]
    first, second = keys_of_epoch(unbalanced, start=12, world=2)
    assert first == one[12:36:2] and second == one[13:36:2]


def test_the_train_split_alone_is_drawn_by_class(tiny):
    cfg = load_config(None, [*tiny, "DATA.SAMPLER", "sqrt"])
    assert build_loader(cfg, "train").sampler.draws and build_loader(cfg, "val").sampler.draws is None
