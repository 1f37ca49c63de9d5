"""Names of files to write."""

import pytest

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.outputs import atomic_output, output_files, unique_names


def test_names_of_files_differ_and_are_not_hidden():
    names = unique_names(["a/x.mp4", "b/x.mp4", "../../-y.avi", "c/.hidden", "/"], ".png")
    assert names == ["x.png", "x_2.png", "y.png", "hidden.png", "video.png"]


def test_a_file_that_cannot_be_written_is_an_error_of_the_user(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*file/x.png: "), atomic_output(str(tmp_path / "file" / "x.png")):
        raise AssertionError("not reached")


def test_a_folder_may_have_a_dot_in_its_name(tmp_path):
    assert output_files(str(tmp_path / "lr0.001"), ["a.mp4"], ".png") == [str(tmp_path / "lr0.001" / "a.png")]
    with pytest.raises(UserError, match="maps.jpg: name a file ending in .png, or a folder"):
        output_files("maps.jpg", ["a.mp4"], ".png")
