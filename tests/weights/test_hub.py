"""Models on the Hugging Face hub, against an imitation on the loopback: uploads, and what is fetched."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from hub_imitation import TOKEN, Repository, hub_on_the_loopback
from huggingface_hub import constants

from slowfast_uniformer import load_model
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.inference.publish import publish
from slowfast_uniformer.runs.published import FILES

CLIPS = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
ADDRESS = "hf://somebody/moving-shapes"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_on_the_loopback() as hub:
        for name in ("HF_HUB_OFFLINE", "SLOWFAST_UNIFORMER_OFFLINE", "HF_TOKEN_PATH"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        yield hub


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("given") / "model"
    publish(str(trained), str(out), "mit")
    return out


def test_an_upload_is_one_commit_and_loads_elsewhere(hub, trained, monkeypatch):
    lines = publish(str(trained), ADDRESS, "apache-2.0", private=True)
    assert f"uploaded to {hub.address}/somebody/moving-shapes" in lines[1]
    repository = hub.repositories["somebody/moving-shapes"]
    assert repository.private and repository.commits == 2 and sorted(repository.files) == sorted(FILES)
    card = repository.files["README.md"].decode()
    assert f'model = load_model("{ADDRESS}")' in card and "license: apache-2.0" in card
    repository.files["pytorch_model.bin"] = b"a pickle"
    model = load_model(ADDRESS)
    original = load_model(trained)
    assert torch.equal(model.logits(CLIPS), original.logits(CLIPS)) and model.names == original.names
    assert not any("pytorch_model" in asked for asked in hub.asked)
    assert Path(model.path).name == "model.safetensors"
    # Without network what was fetched is taken, by both names of the wish
    for name in ("HF_HUB_OFFLINE", "SLOWFAST_UNIFORMER_OFFLINE"):
        hub.asked.clear()
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert load_model(ADDRESS).names == original.names
            with pytest.raises(UserError, match=f"cannot upload, as {name} is set. Unset it; or publish to a folder"):
                publish(str(trained), ADDRESS, "mit")
        assert hub.asked == []


def test_a_published_folder_is_uploaded_as_it_is(hub, folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    card = copy / "README.md"
    card.write_text(card.read_text() + "\nMine.\n")
    (copy / "notes.txt").write_text("not for others")
    publish(str(copy), ADDRESS)
    files = hub.repositories["somebody/moving-shapes"].files
    assert files == {name: (copy / name).read_bytes() for name in FILES}
    card.write_text(card.read_text().replace("license: mit\n", ""))
    with pytest.raises(UserError, match="README.md: names no licence; begin it with the lines ---, license: ID, ---"):
        publish(str(copy), ADDRESS)
    card.write_text("---\nlicense: mit\n---\n")
    publish(str(copy), ADDRESS)
    (copy / "metrics.json").unlink()
    with pytest.raises(UserError, match="without its metrics.json; publish the run again"):
        publish(str(copy), ADDRESS)
    with pytest.raises(UserError, match="is a published model already"):
        publish(str(copy), str(tmp_path / "other"), "mit")


def test_an_unknown_and_a_private_repository(hub, folder, monkeypatch):
    for name in ("somebody/nothing", "somebody/secret"):
        with pytest.raises(UserError, match=f"hf://{name}: .*no such repository, or it is private.*hf auth login"):
            monkeypatch.delenv("HF_TOKEN", raising=False)
            load_model(f"hf://{name}")
        hub.repositories["somebody/secret"] = Repository(private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repositories["somebody/secret"].files |= {name: (folder / name).read_bytes() for name in FILES}
    assert len(load_model("hf://somebody/secret").names) == 8


def test_a_repository_without_the_classes_is_one_message(hub, folder):
    files = {name: (folder / name).read_bytes() for name in FILES if name != "classes.txt"}
    hub.repositories["somebody/half"] = Repository(files=files)
    with pytest.raises(UserError, match=r"lacks its classes.txt; download the folder again"):
        load_model("hf://somebody/half")


def test_what_an_upload_refuses(hub, folder, monkeypatch):
    def refused(message: str, address: str = ADDRESS, **options) -> None:
        with pytest.raises(UserError, match=message) as caught:
            publish(str(folder), address, **options)
        assert "\n" not in str(caught.value)

    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        refused("not logged in to the hub; run `hf auth login`, or set HF_TOKEN")
    refused("not an address of the hub; write hf://USER/NAME", "hf://moving-shapes")
    assert hub.asked == []
    hub.repositories["somebody/moving-shapes"] = Repository()
    refused("the repository is public, which --private does not change", private=True)
    hub.repositories["somebody/moving-shapes"].files["README.md"] = b"# Another model"
    refused("holds another model, of which README.md would be replaced; .*--force")
    assert hub.repositories["somebody/moving-shapes"].files == {"README.md": b"# Another model"}
    hub.failing = {"POST /api/repos/create": 403}
    refused(r"the hub refused it \(40[13]\): this token may not write there; run `hf auth login`", "hf://other/model")
    hub.failing = {"POST /api/validate-yaml": 400}
    refused("cannot be uploaded.*Try again; or publish to a folder now", force=True)
    hub.failing = {"POST /api/repos/create": 500}
    refused("the hub answers 500.*Try again; or publish to a folder now", force=True)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    refused("cannot be uploaded.*Try again; or publish to a folder now", force=True)
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    hub.failing = {}
    publish(str(folder), ADDRESS, force=True)
    assert sorted(hub.repositories["somebody/moving-shapes"].files) == sorted(FILES)
    assert os.listdir(folder.parent) == ["model"]
