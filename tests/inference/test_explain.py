"""Overlays and contact sheets of saliency maps, and the command that writes them."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from slowfast_uniformer import load_model
from slowfast_uniformer.data.decode import Video
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.explain import contact_sheet, explain, heat_maps, label_of
from slowfast_uniformer.inference.predictor import as_sample


def test_heat_maps_keep_the_place_and_fill_the_scale():
    values = torch.full((2, 4, 4), 0.1)
    values[1, 3, 0] = 0.7
    heat = heat_maps(values, 4, 64)
    assert heat.shape == (4, 64, 64) and heat.min() == 0 and heat.max() == 1
    time, row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert time >= 2 and row >= 48 and column < 16
    assert not heat_maps(torch.zeros(1, 2, 2), 3, 8).any()


def test_classes_by_name_and_by_label():
    names = ["left", "right", "0"]
    assert [label_of(word, names) for word in ("right", "1", "0")] == [1, 1, 2]
    with pytest.raises(UserError, match="--class rigth: .* from 0 to 2; the nearest is right"):
        label_of("rigth", names)
    with pytest.raises(UserError, match="--class 3: neither"):
        label_of("3", names)


def test_the_clip_is_the_middle_one_of_testing_or_around_a_second(trained, demo):
    overrides = ["TEST.NUM_ENSEMBLE_VIEWS", 1, "DATA.USE_OFFSET_SAMPLING", True]
    model = load_model(trained, overrides=overrides)
    sample = as_sample(next((demo / "videos" / "up").iterdir()), model.cfg)
    (views,) = model.clips([sample])
    with model.open(sample) as source:
        numbers, clip = model.clip(source)
        torch.testing.assert_close(clip, views[0])
        assert numbers.tolist() == [2, 5, 9, 13]
        assert model.clip(source, at=0.0)[0].tolist() == [0, 3, 7, 11]
        assert model.clip(source, at=99.0)[0].tolist() == [4, 7, 11, 15]


def test_a_path_is_explained_as_its_sample_and_drawn(trained, demo):
    model = load_model(trained, overrides={"TEST.BATCH_SIZE": 2})
    video = next((demo / "videos" / "left").iterdir())
    found, expected = explain(model, video, label=3), explain(model, as_sample(video, model.cfg), label=3)
    assert model.cfg.TEST.BATCH_SIZE == 2 and found.explained == expected.explained
    assert found.explained[0] == model.names[3] and found.numbers.tolist() == expected.numbers.tolist()
    assert all(torch.equal(one.values, other.values) for one, other in zip(found.maps, expected.maps, strict=True))
    assert np.array_equal(np.asarray(found.picture()), contact_sheet(expected))


def test_command_writes_overlay_sheet_and_tensorboard(command, trained, demo, tmp_path):
    video = next((demo / "videos" / "left").iterdir())
    odd = tmp_path / "-a b'c\".mp4"
    shutil.copy(video, odd)
    (tmp_path / "empty.mp4").touch()
    out = tmp_path / "out"
    status, printed, error = command(
        "explain",
        "--checkpoint",
        trained,
        "--class",
        "up",
        "--output",
        out,
        "--tensorboard",
        tmp_path / "board",
        "--",
        odd,
        tmp_path / "empty.mp4",
    )
    assert status == 2 and error.count("\n") == 1 and "empty.mp4: the file is empty" in error
    assert sorted(path.name for path in out.iterdir()) == ["a b'c\".mp4", "a b'c\".png"]
    assert printed.startswith(f"{odd}: up (") and str(out / "a b'c\".png") in printed
    with Video(out / "a b'c\".mp4") as made:
        assert made.frames == 12 and made.info.width == made.info.height == 180
    with Image.open(out / "a b'c\".png") as sheet:
        assert sheet.width > 640 and sheet.height > 5 * 144  # the frames and four stages
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert events.Tags()["images"] == ["visualization/explain/a b'c\".png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class", "nothing"], "--class nothing: neither a class nor a label"),
        (["--stage", "9"], "--stage 9: the stages of the model are 1, 2, 3, 4"),
        (["--output", "{folder}"], "would overwrite a video that was given"),
        (["--output", "/proc/none"], "cannot write /proc/none"),
        (["--output", "maps.png"], "--output maps.png: a folder is needed"),
    ],
)
def test_one_message_for_bad_arguments(command, trained, demo, tmp_path, arguments, message):
    video = next((demo / "videos" / "left").iterdir())
    before = video.read_bytes()
    arguments = [argument.format(folder=video.parent) for argument in arguments]
    status, _, error = command("explain", "--checkpoint", trained, video, "--output", tmp_path / "out", *arguments)
    assert status == 2 and message in error and error.count("error:") == 1 and "Traceback" not in error
    assert video.read_bytes() == before and not (tmp_path / "out").exists()
