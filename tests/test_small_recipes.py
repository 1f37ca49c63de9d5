"""Every recipe trains two steps and is tested in two views or more: --small, on a few demo videos."""

import json

import pytest
from conftest import load_script
from test_recipes import BY_RECIPE, FACTS, ROOT

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.annotations import FORMATS


@pytest.fixture(scope="module")
def lists(demo, tmp_path_factory):
    """A folder that holds four videos as a list in any format."""
    folder = tmp_path_factory.mktemp("lists")
    rows = [line.rsplit(" ", 1) for line in (demo / "train.csv").read_text().splitlines()[:4]]

    def write(cfg):
        for split in ("train", "val", "test"):
            form = FORMATS[cfg.TRAIN.DATASET if split == "train" else cfg.TEST.DATASET]
            texts = []
            for path, label in rows:
                row = {"path": str(demo / "videos" / path), "label": label, "frames": "16"}
                row |= {"total": "10.0", "start": "2.5", "end": "8.0"}
                texts.append(" ".join(row[field] for field in form.fields))
            (folder / form.list_names(cfg, split)[0]).write_text("\n".join(texts))
        return folder

    return write


@pytest.mark.parametrize("name", FACTS["recipes"])
def test_two_steps_and_two_views(name, lists, monkeypatch, tmp_path, capfd):
    path = BY_RECIPE[name]
    cfg = load_config(str(ROOT / path), runs_here=False)
    monkeypatch.setenv(f"{path.split('/')[1].upper()}_DIR", str(lists(cfg)))
    out = ["TENSORBOARD.ENABLE", "False", "OUTPUT_DIR", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["run_net.py", "--small", "--cfg", str(ROOT / path), *out])
    load_script("tools/run_net.py").main()
    rows = list(map(json.loads, (tmp_path / "run_small/metrics.jsonl").read_text().splitlines()))
    assert [row["iter"] for row in rows if row["split"] == "train_iter"] == [1, 2]
    assert [row["num_videos"] for row in rows if row["split"] == "test_final"] == [4]
    assert "4 videos, 2 views each" in (said := capfd.readouterr().err) or "4 videos, 3 views each" in said
