"""`uniformer test`: train's config with TRAIN.ENABLE False, and --checkpoint."""

import json

from conftest import ROOT

EMPTY = ROOT / "tests/empty.yaml"


def test_a_run_s_folder_a_checkpoint_and_no_checkpoint(command, trained, tiny, tmp_path):
    status, out, errors = command("test", "--checkpoint", trained, "--cfg", EMPTY, *tiny, "TEST.ENABLE", False)
    assert status == 0 and out.startswith("top-1 "), errors
    (row,) = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert row["split"] == "test_final" and row["checkpoint"] == str(trained / "checkpoints/epoch_00002.pyth")
    assert not (tmp_path / "run/checkpoints").exists()
    for path, message in ((tmp_path, "this folder has no checkpoints"), (tmp_path / "none.pyth", "none.pyth")):
        status, _, errors = command("test", "--checkpoint", path, "--cfg", EMPTY, *tiny)
        assert status == 2 and message in errors.splitlines()[-1] and "Traceback" not in errors
    status, _, errors = command("test", "--cfg", EMPTY, *tiny)
    assert status == 2 and "nothing to test" in errors
