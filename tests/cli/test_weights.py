"""`uniformer weights`: list, fetch and verify."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import exit_status
from file_server import file_server

from slowfast_uniformer.cli import weights
from slowfast_uniformer.weights import cache, download, files, resolve
from slowfast_uniformer.weights.registry import checkpoints

SMALL, START = "uniformer_small_k400_16x4", "uniformer_small_in1k"
CONTENT = b"\x80" + bytes(1000)


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch) -> Path:
    """A file in the cache of a machine without network."""
    monkeypatch.delenv("SLOWFAST_UNIFORMER_WEIGHTS", raising=False)
    monkeypatch.setenv("SLOWFAST_UNIFORMER_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "slowfast_uniformer" / "uniformer_base_k400_16x4.pth"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    cache.write_record(str(path), cache.find_fault(str(path), checkpoints()["uniformer_base_k400_16x4"].sources[0])[1])
    return path


def test_list_as_json(cached, capsys):
    weights.main(["list", "--json"])
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert found.keys() == checkpoints().keys()
    row = found["uniformer_base_k400_16x4"]
    assert row.keys() >= {"name", "recipes", "top1", "classes", "sources", "here"}
    assert (row["recipes"], row["top1"], row["classes"]) == (["k400/uniformer_b"], 82.0, "k400_uniformer")
    assert row["here"] == str(cached) and found[SMALL]["here"] is None
    release, port = found[SMALL]["sources"]
    assert release.keys() >= {"kind", "address", "size", "sha256", "certain"}
    assert (release["kind"], release["size"], release["certain"]) == ("gdrive", 85735325, True)
    assert release["sha256"] == "4829a6abe934a1c8083f377afea621f01d16bc4a93ce6ae74d7c5bea7eff6a7b"
    assert (port["sha256"], port["sha256_start"], port["classes"]) == (None, "c630a037", "k400")


def test_list_as_a_table(cached, capsys):
    weights.main(["list", "k400/uniformer_b", START, "k600/*64x336*"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines[1:5]]
    assert [row[0] for row in rows[:3]] == ["uniformer_base_k400_16x4", START, "k600_k710_uniformerv2_l14_64x336"]
    assert rows[0][1:] == ["k400/uniformer_b", "82.0", "gdrive", "mmaction2?", str(cached.parent)]
    assert rows[1][-1] == "-" and not rows[3]
    assert exit_status(lambda: weights.main(["list", "nothing*"])) == 2
    assert "'nothing*'" in capsys.readouterr().err


def test_fetch_goes_on_after_a_failure(cached, capsys):
    names = ["uniformer_base_k400_16x4", "gone_k400", SMALL]
    assert exit_status(lambda: weights.main(["fetch", *names])) == 2
    out, errors = capsys.readouterr()
    assert out == f"{cached} (its classes are in the order of k400_uniformer.txt)\n"
    assert errors.count("error: ") == 2 and "gone_k400: no such file" in errors and f"{SMALL} is not here" in errors


@pytest.mark.parametrize("way", ["404", "page", "cut"])
def test_a_fetch_that_fails_is_one_message(monkeypatch, capsys, way):
    monkeypatch.delenv("SLOWFAST_UNIFORMER_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with file_server(b"\x80" + bytes(3 << 20)) as server:
        assert exit_status(lambda: weights.main(["fetch", f"{server.address}/{way}/x.pth"])) == 2
    out, errors = capsys.readouterr()
    assert not out and errors.count("error: ") == 1 and "Traceback" not in errors


def test_ctrl_c_and_the_same_command_again(tmp_path, monkeypatch, capsys):
    def ctrl_c(phase, count: int = 1) -> None:
        raise KeyboardInterrupt

    monkeypatch.delenv("SLOWFAST_UNIFORMER_OFFLINE")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with file_server(b"\x80" + bytes(3 << 20)) as server:
        command = ["fetch", f"{server.address}/ranges/x.pth"]
        with monkeypatch.context() as context:
            context.setattr(download.Phase, "advance", ctrl_c)
            assert exit_status(lambda: weights.main(command)) == 130
        assert exit_status(lambda: weights.main(command)) == 0
        assert [asked for _, _, asked in server.requests] == [None, f"bytes={1 << 20}-"]
    path = Path(capsys.readouterr().out.strip())
    assert path.read_bytes() == b"\x80" + bytes(3 << 20)


def test_fetch_all_of_recipes(capsys):
    assert weights.names_of(["k400/uniformer_s"]) == [START, SMALL]
    assert weights.names_of(["ucf101/*"]) == [SMALL, "uniformer_small_ucf101_16x4_prek400"]
    assert weights.names_of(["k400/uniformer_s_32x4"]) == [START], "its own was not published"
    for words, message in (
        (["--all-of", "k400/none"], "no such config file or recipe"),
        (["--all-of", "demo/uniformer"], "demo/uniformer: has no published weights"),
        ([], "name what to download"),
    ):
        assert exit_status(lambda words=words: weights.main(["fetch", *words])) == 2
        assert message in capsys.readouterr().err


def test_verify(cached, tmp_path, monkeypatch, capsys):
    own = tmp_path / "own"
    own.mkdir()
    (own / "ViT-B-16.pt").write_bytes(CONTENT)
    assert weights.main(["verify"]) == 0
    assert capsys.readouterr().out == f"{cached}: as published or as first fetched\n1 file read, 0 faulty\n"
    monkeypatch.setenv("SLOWFAST_UNIFORMER_WEIGHTS", str(own))
    time = os.path.getmtime(cached)
    cached.write_bytes(CONTENT[:-1] + b"x")
    os.utime(cached, (time, time))  # damage that only reading shows
    assert weights.main(["verify"]) == 2
    out, errors = capsys.readouterr()
    assert f"{cached}: FAULTY" in out and f"{own}/ViT-B-16.pt: FAULTY" in out and "2 files read, 2 faulty" in out
    assert "its SHA-256 is" in errors and "instead of 5806e77c" in errors
    of_cache, of_own = sorted(errors.splitlines(), key=lambda line: str(own) in line)
    assert "remove the file, then the next use fetches it again; without network, copy it here again" in of_cache
    assert "remove" not in of_own and "copy it again from where it is whole" in of_own
    assert not list(own.glob("*.sha256")) and cached.exists()


def test_a_file_of_one_s_own_that_is_not_the_published_one(tmp_path, monkeypatch, capsys, caplog):
    """A copy that was cut: the list marks it, verify takes its path, and loading it is a warning and no error."""
    own = tmp_path / "own"
    own.mkdir()
    path = own / f"{SMALL}.pth"
    torch.save({"model": {"x": torch.zeros(3)}}, path)
    monkeypatch.setenv("SLOWFAST_UNIFORMER_WEIGHTS", str(own))
    sizes = f"it has {path.stat().st_size:,} bytes instead of 85,735,325"
    weights.main(["list", SMALL])
    assert f"{own} (wrong size)\n" in capsys.readouterr().out
    weights.main(["list", SMALL, "uniformer_base_k400_16x4", "--json"])
    assert [row["fault"] for row in json.loads(capsys.readouterr().out)] == [sizes, None]
    for name in (SMALL, str(path)):
        caplog.clear()
        with caplog.at_level("INFO", "slowfast_uniformer"):
            files.read_tensors(name)
        (line,) = [line for line in caplog.messages if "warning" in line]
        assert f"{path}: {sizes}" in line and f"`uniformer weights verify {path}`" in line
    assert weights.main(["verify", str(path)]) == 2
    assert f"{path}: {sizes}; copy it again" in capsys.readouterr().err
    for name in (SMALL, str(path)):
        assert weights.main(["fetch", name]) == 2
        out, errors = capsys.readouterr()
        assert not out and f"{path}: {sizes}; " in errors and errors.count("error: ") == 1
        assert f"remove or move it and run `uniformer weights fetch {SMALL}`" in errors
    other = path.rename(own / "mine.pth")
    with caplog.at_level("INFO", "slowfast_uniformer"):
        caplog.clear()
        files.read_tensors(str(other))
    assert not [line for line in caplog.messages if "warning" in line]
    assert weights.main(["verify", str(other), str(own / "none.pth")]) == 2
    errors = capsys.readouterr().err
    assert "mine.pth: no published file has this name" in errors and "none.pth: there is no such file" in errors


def test_a_wrong_hash_of_a_small_file_is_noted(tmp_path, monkeypatch, caplog):
    path = tmp_path / f"{SMALL}.pth"
    torch.save({"model": {"x": torch.zeros(3)}}, path)
    right = replace(checkpoints()[SMALL].sources[0], size=path.stat().st_size, sha256=download.sha256(str(path)))
    for source, count in ((right, 0), (replace(right, sha256="0" * 64), 1)):
        caplog.clear()
        monkeypatch.setattr(resolve, "sources_of_file", lambda file, source=source: [source])
        with caplog.at_level("INFO", "slowfast_uniformer"):
            files.read_tensors(str(path))
        assert len([line for line in caplog.messages if "its SHA-256 is" in line]) == count
