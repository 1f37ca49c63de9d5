"""Weights are found where they are, fetched once by one process, and missed with a message that says what to do."""

import errno
import hashlib
import multiprocessing
import os
import re
import threading
from pathlib import Path

import pytest
from file_server import file_server

from slowfast_uniformer.config.load import load_config
from slowfast_uniformer.engine.preflight import check_inputs
from slowfast_uniformer.errors import UserError
from slowfast_uniformer.weights import cache, download, resolve
from slowfast_uniformer.weights.registry import checkpoints
from slowfast_uniformer.weights.resolve import Found, find_weights, local_file

CONTENT = b"\x80" + bytes(3 << 20)
SMALL = "uniformer_small_k400_16x4"


@pytest.fixture(autouse=True)
def fresh_machine(tmp_path, monkeypatch) -> Path:
    """A new user's machine without network; the folder of its cache."""
    for name in ("HF_HUB_OFFLINE", "SLOWFAST_UNIFORMER_WEIGHTS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SLOWFAST_UNIFORMER_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "slowfast_uniformer"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("SLOWFAST_UNIFORMER_OFFLINE")
    with file_server(CONTENT) as server:
        yield server


# --------------------------------------------------------------------------------------------------- where it is
@pytest.mark.parametrize("file", [f"{SMALL}.pth", f"{SMALL}.safetensors", "{port}"])
def test_a_file_put_by_hand_is_found_under_its_names(fresh_machine, tmp_path, monkeypatch, file):
    small = checkpoints()[SMALL]
    name = file.format(port=small.sources[1].file)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).write_bytes(CONTENT)
    monkeypatch.setenv("SLOWFAST_UNIFORMER_WEIGHTS", str(folder))
    found = resolve.resolve(SMALL)
    assert found.path == str(folder / name) and found == local_file(small) == resolve.resolve("k400/uniformer_s")
    assert found.classes == ("k400" if "kinetics" in name else "k400_uniformer"), "a port has another order"
    assert found.classes_certain and not Found("x.pth").classes_certain


def test_a_file_put_into_the_cache_is_checked(fresh_machine):
    small = checkpoints()[SMALL]
    fresh_machine.mkdir(parents=True)
    path = fresh_machine / f"{SMALL}.pth"
    path.write_bytes(CONTENT)
    with pytest.raises(UserError, match=f"{SMALL} is not here"):
        find_weights(SMALL)
    assert not path.exists(), "it has not the published size"
    base = checkpoints()["uniformer_base_k400_16x4"]
    path = fresh_machine / base.sources[0].file
    path.write_bytes(CONTENT)
    assert find_weights(base.name) == str(path) and local_file(small) is None
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert Path(cache.record_path(str(path))).read_text() == f"{digest}  {path.name}\n"


def test_paths_come_before_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(SMALL).write_bytes(b"")
    assert resolve.resolve(SMALL) == Found(SMALL)


# ------------------------------------------------------------------------------------------------------ messages
@pytest.mark.parametrize("variable", ["SLOWFAST_UNIFORMER_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(fresh_machine, monkeypatch, variable):
    monkeypatch.delenv("SLOWFAST_UNIFORMER_OFFLINE")
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("a source was asked"))
    with pytest.raises(UserError) as caught:
        find_weights(SMALL)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{SMALL} is not here, and {variable} is set, which forbids to fetch it from:"
    assert [line.split()[0] for line in lines[1:-1]] == [source.address for source in checkpoints()[SMALL].sources]
    assert lines[-1].startswith(f"Unset {variable}. Or run `uniformer weights fetch {SMALL}` on a machine with network")
    assert f"to {fresh_machine}, " in lines[-1] and f"as {SMALL}.pth or uniformer-small_" in lines[-1]
    monkeypatch.setenv(variable, "0")
    assert not resolve.offline()


@pytest.mark.parametrize("name", ["k400_k710_uniformerv2_l14_64x336", "https://localhost/x%20y.pth?download=true#1"])
def test_the_remedies_of_a_missing_file_work(fresh_machine, monkeypatch, tmp_path, name):
    with pytest.raises(UserError) as caught:
        find_weights(name)
    last = str(caught.value).splitlines()[-1]
    (folder,) = re.findall(r"it writes to (.+?), which must be the same", last)
    files = last.rsplit(", as ", 1)[1].split(" or ")
    for place in [folder, *([str(tmp_path / "own")] if "SLOWFAST_UNIFORMER_WEIGHTS" in last else [])]:
        monkeypatch.setenv("SLOWFAST_UNIFORMER_WEIGHTS", str(tmp_path / "own"))
        for file in files:
            path = Path(place, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(CONTENT)
            assert find_weights(name) == str(path)
            path.unlink()
    assert len(files) == (1 if "://" in name else 2)


def test_in_a_job_of_slurm(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(UserError, match=f"weights fetch {SMALL}` on a login node before the job starts"):
        find_weights(SMALL)


@pytest.mark.parametrize(
    "name, message",
    [
        ("uniformer_smal_k400_16x4", f"no published weights of that name; did you mean {SMALL}"),
        ("uniformer_small_k400_32x4", "only its figure was published. Name other weights"),
        ("k400/uniformer_s_32x4", "only its figure was published"),
        ("k710/uniformerv2_l14_8x336_frozen", "(?s)gone.*as frozen_k710_uniformerv2_l14_8x336.pyth"),
        ("runs/none.pth", "runs/none.pth: no such file .*uniformer weights list"),
    ],
)
def test_every_miss_has_a_next_step(monkeypatch, name, message):
    if "gone" in message:
        monkeypatch.delenv("SLOWFAST_UNIFORMER_OFFLINE")
    with pytest.raises(UserError, match=message):
        find_weights(name)


def test_training_and_testing_look_for_their_weights_before_anything_else(tiny, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("slowfast_uniformer.engine.preflight.resolve", asked.append)
    start = [*tiny, "MODEL.INIT_FROM", "uniformer_small_in1k"]
    check_inputs(load_config(None, start))
    assert asked == ["uniformer_small_in1k"]
    check_inputs(load_config(None, [*start, "TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", SMALL]))
    check_inputs(load_config(None, [*start, "TRAIN.CHECKPOINT_FILE_PATH", str(tmp_path)]))
    assert asked[1:] == [SMALL]
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "epoch_00001.pyth").touch()
    check_inputs(load_config(None, start))
    assert len(asked) == 2, "a run that continues needs none"


# ---------------------------------------------------------------------------------------------------- one at a time
def _find(address: str) -> str:
    return find_weights(address)


def test_one_process_fetches_while_others_wait(server, fresh_machine):
    address = f"{server.address}/ranges/x.pth"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        (path,) = set(pool.map(_find, [address] * 2, chunksize=1))
    assert Path(path).read_bytes() == CONTENT and len(server.requests) == 1


def test_who_waited_for_one_that_failed_does_not_try_again(server, fresh_machine, monkeypatch):
    address, errors = f"{server.address}/slow_start/x.pth", []

    def find() -> None:
        try:
            resolve.resolve(address, timeout=0.5)
        except UserError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=find) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 3 and len(set(errors)) == 1 and "no answer for 0.5 seconds" in errors[0]
    assert len(server.requests) == 1
    find()
    assert len(server.requests) == 2, "a later call does"


def test_without_locks_each_has_a_place_of_its_own(server, fresh_machine, monkeypatch):
    def acquire(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    places = []
    fetch = download.fetch
    monkeypatch.setattr(download, "fetch", lambda *a: places.append(os.path.basename(a[1])) or fetch(*a))
    assert Path(find_weights(f"{server.address}/plain/x.pth")).read_bytes() == CONTENT
    assert re.fullmatch(rf"https-x.pth-.+-{os.getpid()}", places[0])
    assert not list(fresh_machine.rglob("https-x.pth*"))
