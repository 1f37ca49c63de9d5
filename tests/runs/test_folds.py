"""The folders and files of folds."""

import pytest

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.runs import folds
from slowfast_uniformer.runs.folder import read_run


def test_folders_and_files_of_folds(tmp_path):
    for number in (1, 2, 4):
        (tmp_path / f"fold_{number}").mkdir()
    assert folds.fold_folders(str(tmp_path)) == [str(tmp_path / "fold_1"), str(tmp_path / "fold_2")]
    assert folds.read_finished(str(tmp_path)) == {}
    (tmp_path / "folds.json").write_text("{")
    with pytest.raises(UserError, match=r"folds.json: damaged .*; remove it"):
        folds.read_finished(str(tmp_path))
    with pytest.raises(UserError, match="metrics could not be written"):
        folds.test_scores(str(tmp_path / "fold_1"))


def test_a_folder_of_folds_is_no_run_and_names_them(tmp_path):
    (tmp_path / "fold_1").mkdir()
    assert folds.fold_runs(str(tmp_path)) == []
    (tmp_path / "fold_1/metrics.jsonl").write_text("")
    (tmp_path / "fold_2").mkdir()
    assert folds.fold_runs(str(tmp_path)) == [str(tmp_path / "fold_1")], "the second has not begun"
    with pytest.raises(UserError, match=r"holds the runs of 1 fold\. Name one, such as .*/fold_1$"):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    assert folds.fold_runs(str(tmp_path)) == [] and read_run(tmp_path).rows == []
