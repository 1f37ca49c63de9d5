"""`uniformer demo-data`."""


def test_demo_data_is_rendered_once(command, tmp_path):
    words = ["demo-data", "--out", tmp_path / "demo", "--train", 8, "--val", 8, "--workers", 1]
    for outcome in ("rendered", "are there already"):
        status, out, errors = command(*words)
        first, following = out.splitlines()
        assert (status, errors) == (0, "") and first == f"{tmp_path / 'demo'}: 16 videos {outcome}"
        assert following.endswith(f"DATA.PATH_TO_DATA_DIR {tmp_path}/demo DATA.PATH_PREFIX {tmp_path}/demo/videos")
    assert len((tmp_path / "demo" / "train.csv").read_text().splitlines()) == 8


def test_a_folder_that_cannot_be_written_is_an_error(command, tmp_path):
    (tmp_path / "file").write_text("")
    status, out, errors = command("demo-data", "--out", tmp_path / "file" / "demo", "--train", 8, "--val", 8)
    assert (status, out) == (2, "") and "cannot write the data set" in errors
