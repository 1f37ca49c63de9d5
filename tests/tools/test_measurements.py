"""tools/measurements.py: the page of measurements has the figures of the files, and these have one schema."""

import json
from datetime import date

import pytest
from conftest import ROOT, load_script

PAGE = ROOT / "docs/measurements.md"
tool = load_script("tools/measurements.py")
MEASUREMENTS = tool.read()
FIELDS = ["subject", "date", "machine", "commit", "command", "note", "columns", "rows"]
ONE = {
    "subject": "Speed",
    "date": "2026-11-09",
    "machine": {"cpu": "A CPU", "cores": 2, "threads": 1},
    "commit": None,
    "command": "python a.py --one 1 KEY.A 2",
    "note": "Alone.",
    "columns": {"model": ["model", "{}"], "seconds": ["time", "{:.2f} s"]},
    "rows": [{"model": "S", "seconds": 2.3}, {"model": "B", "seconds": [1, 2.25]}, {"model": "L", "seconds": None}],
}


def test_the_page_has_the_figures_of_the_files():
    text = PAGE.read_text(encoding="utf-8")
    assert tool.updated(text, MEASUREMENTS) == text, "run python tools/measurements.py"
    assert len(MEASUREMENTS) > 30 and text.count("<!-- table ") > 15 and text.count("<!-- index -->") == 1


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_file_has_the_fields_of_the_schema(name):
    found = MEASUREMENTS[name]
    assert list(found) == FIELDS and date.fromisoformat(found["date"]) and found["rows"]
    assert {"cpu", "cores", "threads"} <= found["machine"].keys()
    assert all(list(row) == list(found["columns"]) for row in found["rows"]), "rows have the columns' fields"
    numbers = [value for row in found["rows"] for value in row.values() if isinstance(value, list)]
    assert all(len(value) == 2 and value[0] < value[1] for value in numbers), "a range goes from less to more"


def test_tables_are_written_from_figures():
    text = "# Page\n\n<!-- table speed -->\nold\n<!-- end -->\n\nText\n\n<!-- index -->\n<!-- end -->\n"
    lines = tool.updated(text, {"speed": ONE}).splitlines()
    assert "old" not in lines and "Text" in lines and "    python a.py --one 1 KEY.A 2" in lines
    assert [line for line in lines if line.startswith("| S") or line.startswith("| B") or line.startswith("| L")] == [
        "| S | 2.30 s |",
        "| B | 1.00 to 2.25 s |",
        "| L |  |",
    ]
    assert "9 November 2026; A CPU, 2 cores, 1 thread; [speed.json](measurements/speed.json). Alone." in lines
    assert "| [speed](measurements/speed.json) | Speed | 9 November 2026 | A CPU, 2 cores, 1 thread |" in lines


def test_a_long_command_goes_on_in_the_next_line():
    command = f"python a.py {' '.join(f'--option_{n} {n}' for n in range(12))} DATA.KEY 1"
    lines = tool.command_lines(command).splitlines()
    assert len(lines) > 1 and all(line.endswith(" \\") for line in lines[:-1]) and not lines[-1].endswith("\\")
    assert " ".join(line.removesuffix("\\").strip() for line in lines) == command


def test_benchmarks_write_the_fields_of_the_files(monkeypatch):
    results = load_script("tools/benchmarks/results.py")
    monkeypatch.setattr(
        "sys.argv", [str(ROOT / "tools/benchmarks/benchmark.py"), "model", "--json", "MODEL.ARGS", "a b"]
    )
    found = json.loads(results.to_json([{"seconds": 1.5}], threads=2))
    assert list(found) == ["date", "machine", "commit", "command", "rows"]
    assert found["command"] == "python tools/benchmarks/benchmark.py model --json MODEL.ARGS 'a b'"
    assert found["rows"] == [{"seconds": 1.5}] and date.fromisoformat(found["date"])
    assert found["machine"]["threads"] == 2 and found["machine"]["cores"] >= 1
