"""Weights are fetched from addresses and from the hub as real servers give them, and refused as those fail."""

import errno
import hashlib
import io
import logging
import os
import re
import socket
import sys
import types
from pathlib import Path

import pytest
import torch
from file_server import REPOSITORY, file_server

from slowfast_uniformer.errors import UserError
from slowfast_uniformer.weights import cache, download, registry
from slowfast_uniformer.weights.files import read_tensors
from slowfast_uniformer.weights.registry import Checkpoint, Source
from slowfast_uniformer.weights.resolve import find_weights, resolve


def torch_file(value: float = 1.0) -> bytes:
    """The bytes of a file of weights of three megabytes: more than one piece of a transfer."""
    file = io.BytesIO()
    torch.save({"w": torch.full((3 << 18,), value)}, file)
    return file.getvalue()


CONTENT = torch_file()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    with file_server(CONTENT) as server:
        yield server


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and nothing of this machine's settings."""
    for name in ("SLOWFAST_UNIFORMER_OFFLINE", "HF_HUB_OFFLINE", "SLOWFAST_UNIFORMER_WEIGHTS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "slowfast_uniformer"


@pytest.fixture
def publish(monkeypatch):
    """Publish a checkpoint "published" with these sources."""

    def publish(*sources: Source) -> None:
        checkpoint = Checkpoint("published", (), "k400", True, 80.0, None, "8x3x4", sources)
        monkeypatch.setattr(registry, "checkpoints", lambda: {"published": checkpoint})
        registry._by_file.cache_clear()
        registry._by_recipe.cache_clear()

    yield publish
    registry._by_file.cache_clear()
    registry._by_recipe.cache_clear()


def files_of(folder: Path) -> list[str]:
    """The names of all files but the locks."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.parent.name != ".locks")


def gets(server) -> list[str | None]:
    """The ranges that were asked for."""
    return [asked for method, _, asked in server.requests if method == "GET"]


@pytest.mark.parametrize("way", ["plain", "ranges", "redirect", "cut_once"])
def test_a_file_is_fetched_once_and_kept(server, own_cache, way):
    path = find_weights(f"{server.address}/{way}/x.pth")
    assert Path(path).read_bytes() == CONTENT
    count = len(server.requests)
    assert find_weights(f"{server.address}/{way}/x.pth") == path and len(server.requests) == count
    assert Path(f"{path}.sha256").read_text() == f"{SHA256}  x.pth\n"
    assert files_of(own_cache) == ["x.pth", "x.pth.sha256"]
    assert read_tensors(f"{server.address}/{way}/x.pth")[0]["w"][0] == 1


@pytest.mark.parametrize(
    "way, reason",
    [
        ("404", "the server answers 404 Not Found"),
        ("403", "the server answers 403 Forbidden"),
        ("page", "a web page came instead of the file"),
        ("hidden_page", "not a file of weights .perhaps a web page"),
        ("slow_start", "cannot connect .no answer for 0.3 seconds"),
        ("stall", "no data for 0.3 seconds, after [0-9,]+ bytes"),
        ("cut", "the connection ended after [0-9,]+ of 3,[0-9,]+ bytes"),
    ],
)
def test_what_goes_wrong_is_said_once_and_leaves_no_file(server, own_cache, way, reason):
    address = f"{server.address}/{way}/x.pth"
    with pytest.raises(UserError, match=f"(?s){address}.*{reason}.*weights fetch {address}.*{own_cache}") as caught:
        resolve(address, timeout=0.3)
    assert str(caught.value).count(reason.split(" [")[0].split(".")[0]) == 1
    left = [name for name in files_of(own_cache) if not name.endswith(".version")]
    assert left == (["x.pth"] if way in ("stall", "cut") else [])  # a part, in the folder of parts
    assert not list(own_cache.glob("addresses/*/x.pth"))


def test_a_server_that_is_not_there(own_cache):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="cannot connect .Connection refused"):
            find_weights(f"http://127.0.0.1:{free.getsockname()[1]}/x.pth")
    assert files_of(own_cache) == []


def test_the_next_source_is_tried_and_reasons_are_given_for_all(server, own_cache, publish):
    sources = [Source("https", f"{server.address}/{way}/x.pth", "release", True) for way in ("404", "page", "plain")]
    gone = Source("https", f"{server.address}/plain/gone.pth", "release", True, gone_since="2024-08")
    publish(gone, *sources[:2])
    with pytest.raises(UserError, match="(?s)gone.pth: not tried: gone since 2024-08.*404.*web page") as caught:
        find_weights("published")
    assert "as gone.pth or x.pth" in str(caught.value)
    assert not any("gone" in path for _, path, _ in server.requests)
    publish(gone, *sources)
    found = resolve("published")
    assert found.path == str(own_cache / "x.pth") and found.source is sources[2] and found.classes == "k400"
    assert find_weights("published.pth") == find_weights("x.pth") == found.path


@pytest.mark.parametrize(
    "facts, reason",
    [
        ({"sha256": "0" * 64}, f"its SHA-256 is {SHA256} instead of 0000"),
        ({"file": "x-0123abcd.pth"}, f"its SHA-256 is {SHA256} instead of 0123abcd..."),
        ({"size": 99}, "it has 3,[0-9,]+ bytes instead of 99"),
    ],
)
def test_a_file_that_is_not_the_published_one_is_refused(server, own_cache, publish, facts, reason):
    publish(Source("https", f"{server.address}/ranges/x.pth", "release", True, **facts))
    with pytest.raises(UserError, match=reason):
        find_weights("published")
    assert files_of(own_cache) == []
    good = {"sha256": SHA256, "file": f"x-{SHA256[:8]}.pth", "size": len(CONTENT)}
    publish(Source("https", f"{server.address}/ranges/x.pth", "release", True, **{key: good[key] for key in facts}))
    assert Path(find_weights("published")).read_bytes() == CONTENT


def test_a_file_whose_hash_is_not_published_must_stay_as_it_was_first(server, own_cache, publish):
    publish(Source("https", f"{server.address}/plain/x.pth", "release", True))
    path = Path(find_weights("published"))
    path.unlink()
    server.content = torch_file(2.0)
    said = f"instead of {SHA256}, as at the first download; if it was replaced on purpose, remove (.*)"
    with pytest.raises(UserError, match=said) as caught:
        find_weights("published")
    server.content = CONTENT
    assert find_weights("published") == str(path)
    path.unlink()
    server.content = torch_file(2.0)
    Path(re.search(said, str(caught.value))[1]).unlink()
    assert Path(find_weights("published")).read_bytes() == server.content


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: data[:-100] + bytes(100)])
def test_a_file_that_changed_in_the_cache_is_fetched_again(server, own_cache, caplog, damage):
    address = f"{server.address}/plain/x.pth"
    path = Path(find_weights(address))
    path.write_bytes(damage(CONTENT))
    caplog.set_level(logging.INFO)
    os.utime(path, (path.stat().st_mtime + 5, path.stat().st_mtime + 5))
    assert find_weights(address) == str(path) and path.read_bytes() == CONTENT
    assert f"warning: {path} is removed" in caplog.text
    (cache_file,) = cache.cached_files()
    assert cache_file == str(path)


# ------------------------------------------------------------------------------------------------ interruptions


@pytest.mark.parametrize("way", ["ranges", "plain"])
def test_ctrl_c_and_again(server, own_cache, monkeypatch, way):
    address = f"{server.address}/{way}/x.pth"

    def ctrl_c(phase, count: int = 1) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(download.Phase, "advance", ctrl_c)
        find_weights(address)
    assert not list(own_cache.glob("addresses/*/x.pth"))
    path = find_weights(address)
    assert Path(path).read_bytes() == CONTENT and files_of(own_cache) == ["x.pth", "x.pth.sha256"]
    assert gets(server) == [None, f"bytes={1 << 20}-" if way == "ranges" else None]


def interrupt(monkeypatch, address: str) -> None:
    """Ctrl-C after the first piece of a transfer."""

    def ctrl_c(phase, count: int = 1) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(download.Phase, "advance", ctrl_c)
        find_weights(address)


def test_another_version_of_the_file_is_not_put_behind_the_first_part(server, own_cache, monkeypatch):
    address = f"{server.address}/ranges/x.pth"
    interrupt(monkeypatch, address)
    server.content, server.version = torch_file(2.0), '"second"'
    assert Path(find_weights(address)).read_bytes() == server.content
    assert gets(server) == [None, f"bytes={1 << 20}-"]


def test_a_part_that_is_whole_already_or_too_long(server, own_cache, monkeypatch):
    address = f"{server.address}/ranges/x.pth"
    for more in (b"", b"too long"):
        interrupt(monkeypatch, address)
        (part,) = own_cache.glob("addresses/*/.partial/*/x.pth")
        part.write_bytes(CONTENT + more)
        path = Path(find_weights(address))
        assert path.read_bytes() == CONTENT
        path.unlink()
    assert [asked is None for asked in gets(server)] == [True, False, True, False, True]


def test_a_full_disk(server, own_cache, monkeypatch):
    def full(response, file, *_) -> None:
        file.write(b"something")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_copy", full)
    with pytest.raises(UserError, match=f"cannot write to {own_cache}.*: No space left on device.*XDG_CACHE_HOME"):
        find_weights(f"{server.address}/plain/x.pth")
    assert files_of(own_cache) == []


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot write to .*file/slowfast.*: Not a directory.*XDG_CACHE_HOME"):
        find_weights(f"{server.address}/plain/x.pth")
    assert server.requests == []


# ------------------------------------------------------------------------------------------------- the hub, Drive
@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    return server


def test_a_file_of_any_repository_on_the_hub(hub, monkeypatch):
    path = find_weights(f"hf://{REPOSITORY}/known.pth")
    assert Path(path).read_bytes() == CONTENT and "snapshots" in path
    monkeypatch.setenv("SLOWFAST_UNIFORMER_OFFLINE", "1")
    count = len(hub.requests)
    assert find_weights(f"hf://{REPOSITORY}/known.pth") == path and len(hub.requests) == count
    with pytest.raises(UserError, match="not in the hub's cache, and SLOWFAST_UNIFORMER_OFFLINE is set.*fetch hf"):
        find_weights(f"hf://{REPOSITORY}/other.pth")


@pytest.mark.parametrize(
    "address, reason",
    [
        (f"hf://{REPOSITORY}/other.pth", "no such file or revision"),
        ("hf://nobody/nothing/x.pth", "no such repository, or it is private .*hf auth login"),
        ("hf://x.pth", "hf://USER/REPO/FILE"),
    ],
)
def test_what_the_hub_does_not_have(hub, address, reason):
    with pytest.raises(UserError, match=f"{address}: .*{reason}"):
        find_weights(address)


def test_a_published_file_on_the_hub_is_checked_and_kept_in_the_cache(hub, own_cache, publish):
    address = f"hf://{REPOSITORY}/known.pth"
    publish(Source("hub", address, "release", True, sha256="0" * 64))
    with pytest.raises(UserError, match=f"{address}: its SHA-256 is {SHA256}"):
        find_weights("published")
    assert files_of(own_cache) == []
    other = Source("hub", f"hf://{REPOSITORY}/other.pth", "release", False)
    publish(other, Source("hub", address, "release", True, file="named.pth", sha256=SHA256))
    assert find_weights("published") == str(own_cache / "named.pth")
    assert files_of(own_cache) == ["named.pth", "named.pth.sha256"]


DRIVE = Source("gdrive", "https://somewhere/file/d/some_id-1/view", "release", True, file="x.pth")


def test_google_drive_without_gdown(own_cache, publish, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)
    publish(DRIVE)
    with pytest.raises(
        UserError, match=r"id-1/view \(x.pth\): needs gdown: pip install 'slowfast_uniformer\[gdrive\]'"
    ):
        find_weights("published")
    assert files_of(own_cache) == []


@pytest.mark.parametrize(
    "given, reason",
    [
        (b"<html>Quota exceeded</html>", "it is not a file of weights"),
        (RuntimeError("Cannot retrieve the\n public link"), "Cannot retrieve the public link"),
        (OSError("timed out"), "OSError: timed out"),
        (CONTENT, ""),
    ],
)
def test_google_drive(own_cache, publish, monkeypatch, given, reason):
    def imitation(id: str, output: str, quiet: bool, resume: bool, timeout: float) -> str:
        assert id == "some_id-1" and resume
        if isinstance(given, Exception):
            raise given
        Path(output).write_bytes(given)
        return output

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=imitation))
    publish(DRIVE)
    if not reason:
        assert Path(find_weights("published")).read_bytes() == CONTENT
        return
    with pytest.raises(UserError, match=reason):
        find_weights("published")
    assert files_of(own_cache) == []


def test_a_format_that_cannot_be_read_here_is_not_fetched(server, own_cache, publish, monkeypatch):
    monkeypatch.setattr(download, "find_spec", lambda name: None)
    publish(Source("https", f"{server.address}/plain/x.h5", "keras", True))
    with pytest.raises(UserError, match=r"needs h5py: pip install 'slowfast_uniformer\[keras\]'"):
        find_weights("published")
    assert server.requests == []
