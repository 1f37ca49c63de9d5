"""Videos and numbered images in folders."""

import pytest

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.data.folders import Images, find_images, has_images
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.paths import numbered_name


def images(folder, template, *names) -> Images:
    for name in names:
        (folder / name).touch()
    return find_images(str(folder), template)


def test_a_template_chooses_among_several_series(tmp_path):
    names = [f"{kind}_{number:05d}.jpg" for kind in ("img", "flow_x", "flow_y") for number in (1, 2)]
    found = images(tmp_path, "img_{:05d}.jpg", *names)
    assert found == Images({0: "img_00001.jpg", 1: "img_00002.jpg"}, 2, "img_{:05d}.jpg", 1, 1)
    assert find_images(str(tmp_path), "flow_x_%05d.jpg").names[1] == "flow_x_00002.jpg"
    message = r"several series of images \(flow_x_00001.jpg, .*{:05d}.jpg says: set the key to flow_x_{:05d}.jpg or"
    with pytest.raises(ValueError, match=message) as caught:
        find_images(str(tmp_path), "{:05d}.jpg")
    for template in str(caught.value).rpartition("set the key to ")[2].split(" or "):  # the remedy helps
        assert find_images(str(tmp_path), template).frames == 2


def test_every_nth_frame_and_time_stamps(tmp_path):
    for name in ("nth", "stamps", "far"):
        (tmp_path / name).mkdir()
    found = images(tmp_path / "nth", "{}.jpg", *(f"{number}.jpg" for number in (5, 10, 20)))
    assert (found.frames, found.names, found.name(2)) == (4, {0: "5.jpg", 1: "10.jpg", 3: "20.jpg"}, "15.jpg")
    found = images(tmp_path / "stamps", "{}.jpg", *(f"t{number:06d}.jpg" for number in (33, 67, 100, 133)))
    assert found.frames == 4 and found.names[3] == "t000133.jpg"
    found = images(tmp_path / "far", "{}.jpg", "1.jpg", "2.jpg", "999999999.jpg")
    assert found.frames == 999999999 and len(found.names) == 3


def test_folders_whose_images_are_not_known(tmp_path):
    with pytest.raises(ValueError, match="a folder without numbered images"):
        images(tmp_path, "{:05d}.jpg", "cover.jpg", "notes1.txt", ".hidden1.jpg")
    with pytest.raises(ValueError, match="001.jpg and 1.jpg have the same number"):
        images(tmp_path, "{:05d}.jpg", "1.jpg", "001.jpg", "2.jpg")
    with pytest.raises(NotADirectoryError):
        find_images(str(tmp_path / "1.jpg"), "{:05d}.jpg")
    assert has_images(["a", "b1.txt", "c2.JPG"]) and not has_images(["a", "b1.txt", "c.jpg", "._c1.jpg"])


def test_braces_and_digits_in_names(tmp_path):
    found = images(tmp_path, "{:05d}.jpg", "{a}2_1.jpg", "{a}2_2.jpg")
    assert found.template == "{{a}}2_{}.jpg" and numbered_name(found.template, 2) == "{a}2_2.jpg"


@pytest.mark.parametrize("template", ["img.jpg", "", "{:05d", "{a}.jpg", "{}{}.jpg", "{:s}.jpg", "%s%s.jpg"])
def test_templates_without_a_number(template):
    with pytest.raises(ValueError, match="no place for a number|: "):
        numbered_name(template, 1)
    with pytest.raises(UserError, match="DATA.IMAGE_TEMPLATE: .*such as img_{:05d}.jpg or img_%05d.jpg"):
        load_config(None, ["NUM_GPUS", 0, "DATA.IMAGE_TEMPLATE", template])
