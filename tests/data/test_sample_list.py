"""Lists held as arrays."""

import os
import pickle
from array import array
from dataclasses import replace

import pytest

from slowfast_uniformer.data.bad_videos import BadVideo, BadVideos
from slowfast_uniformer.data.sample_list import Columns, Sample, SampleList

KINDS = {
    "files": [Sample("a.mp4", 0), Sample("/abs/é b.mp4", 2), Sample("caf\udce9.mp4", -1)],
    "folders": [Sample("x", 0, 30), Sample("y", 1, 1)],
    "parts": [Sample("x", 0, None, (0.5, 1.0, 2.25)), Sample("x", 0, None, (0.0, 0.0, 3.0))],
    "several labels": [Sample("x", (3, 1)), Sample("y", ()), Sample("z", (2,))],
    "mixed": [Sample("x", 0, 30), Sample("y", 1), Sample("z", 1, None, (1.0, 2.0, 3.0))],
    "groups": [Sample("x", 0, group="ä"), Sample("y", 1, group=""), Sample("z", 1, group="ä")],
    "segments": [Sample("x", 0, None, (0.5, 1.0, -1.0), 2, "a"), Sample("x", 0)],
    "none": [],
}


def in_root(sample, root):
    return replace(sample, path=os.path.join(root, sample.path))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("root", ["", "rel", "/root/"])
def test_samples_are_what_was_given(tmp_path, kind, root):
    samples = SampleList.of(iter(KINDS[kind]), root)
    expected = [in_root(sample, root) for sample in KINDS[kind]]
    samples.save(tmp_path / "file")
    for each in (samples, pickle.loads(pickle.dumps(samples)), SampleList.map_file(tmp_path / "file", root)):
        assert list(each) == expected and each == samples == expected and len(each) == len(expected)
        assert [sample.line for sample in each] == [sample.line for sample in expected]
        assert each[1:] == expected[1:] and each.checksum == samples.checksum
        if expected:
            assert each[-1] == expected[-1]
        with pytest.raises(IndexError):
            each[len(expected)]


def test_checksums_differ_where_lists_do():
    lists = [SampleList.of(samples) for kind, samples in KINDS.items() if kind != "groups"]
    lists += [SampleList.of(KINDS["files"][::-1]), SampleList.of([Sample("a", 1)]), SampleList.of([Sample("a", (1,))])]
    lists += [SampleList.of([Sample("a", 1), Sample("b", 1)]), SampleList.of([Sample("ab", 1), Sample("", 1)])]
    assert len({samples.checksum for samples in lists}) == len(lists)
    assert SampleList.of(KINDS["files"], "root").checksum == lists[0].checksum


def test_figures_of_a_whole_list():
    train = SampleList.of([Sample("a", 0), Sample("b", 2), Sample("/r/a", 2), Sample("c", -1)], "/r")
    test = SampleList.of([Sample("/r/b", 0), Sample("/r/a", 1), Sample("/r/x", 1)])
    assert (train.num_paths, train.num_labelled, train.used_labels) == (3, 3, {0, 2})
    assert train.paths_shared_with(test) == test.paths_shared_with(train) == 2
    assert train.among(["/r/a", "a", "b", "/r/c", "/r/"]) == {"/r/a", "/r/c"} and train.among([]) == set()
    assert train.contradictions() == [(0, 2)] and test.contradictions() == []
    several = SampleList.of(KINDS["several labels"])
    assert several.used_labels == {1, 2, 3} and several.num_labelled == 3


@pytest.fixture(scope="module")
def million():
    columns = Columns()
    for start in range(0, 10**6, 10**5):
        numbers = range(start, start + 10**5)
        columns.extend([f"class/{number:07}.mp4" for number in numbers], [number % 400 for number in numbers])
    return SampleList(columns.arrays, "/videos")


def test_a_million_videos_take_few_bytes_and_few_objects(million):
    assert sum(column.nbytes for column in million._columns.values()) < 40e6
    assert all(isinstance(column.obj, array | bytearray) for column in million._columns.values())
    assert million[123456] == Sample("/videos/class/0123456.mp4", 123456 % 400)
    assert million.num_paths == 10**6 and million.used_labels == set(range(400))


def test_bad_videos_of_a_million(tmp_path, million):
    noted = BadVideos(str(tmp_path))
    for number in (0, 999_999, 10**6):
        noted.add(BadVideo(f"/videos/class/{number:07}.mp4", "empty", (1, 2)))
    assert list(BadVideos(str(tmp_path), million).videos) == [f"/videos/class/{k:07}.mp4" for k in (0, 999_999)]
