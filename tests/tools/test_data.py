"""The comparison of AUG.DEVICE's values gives complete figures. No timing is judged."""

import json
import sys
from unittest.mock import patch

import av
from conftest import ROOT, load_script

BENCHMARK = "tools/benchmarks/data.py"
AUGMENTED = ["AUG.ENABLE", True, "AUG.NUM_SAMPLE", 2, "AUG.AA_TYPE", "rand-m7-n4-mstd0.5-inc1"]


def test_figures_are_complete(tiny, capsys):
    settings = [str(word) for word in [*tiny, *AUGMENTED]]
    arguments = ["--cfg", str(ROOT / "tests/empty.yaml"), "--compare", "device", "--videos", "2", "--json"]
    with patch.object(sys, "argv", ["data.py", *arguments, *settings]):
        load_script(BENCHMARK).main()
    (figures,) = json.loads(capsys.readouterr().out)["rows"]
    assert figures["clips"] == 4 and figures["worker_ratio"] > 0 and 0 < figures["bytes_ratio"] < 1


def test_rendered_videos_are_of_the_size_of_kinetics(tmp_path):
    load_script(BENCHMARK).render(tmp_path / "video.mp4", 3, seed=0)
    with av.open(str(tmp_path / "video.mp4")) as container:
        sizes = [(frame.width, frame.height) for frame in container.decode(video=0)]
    assert sizes == [(340, 256)] * 3
