"""tools/benchmarks/imbalance.py: its figures, and a run of seconds that is not repeated."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, load_script


def test_figures_of_runs():
    tool = load_script("tools/benchmarks/imbalance.py")
    truth, predicted = [0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 1, 0, 2, 0, 3, 3]
    found = tool.scores(truth, predicted, [40, 30, 20, 10])
    assert found["macro_f1"] == pytest.approx(100 * (2 / 3 + 2 / 3 + 2 / 3 + 1) / 4, abs=1e-4)
    assert found["rare"] == pytest.approx(200 / 3) and found["frequent"] == pytest.approx(200 / 3)
    assert found["top1"] == 75
    runs = [
        {"seed": seed, "method": method, **dict.fromkeys(tool.FIGURES, value)}
        for method, values in {"none": (40, 50, 60), "sqrt": (45, 53, 67)}.items()
        for seed, value in enumerate(values)
    ]
    table = tool.summary(runs)
    assert table["none"]["macro_f1"] == pytest.approx((50, 10 / 3**0.5)) and "gain" not in table["none"]
    assert table["sqrt"]["gain"] == pytest.approx((5, 2 / 3**0.5))
    assert tool.markdown(table).splitlines()[3].startswith("| `DATA.SAMPLER sqrt` | 55.0 ± 6.4 | +5.0 ± 1.2 | 55.0 ±")


@pytest.mark.slow
def test_a_run_of_two_methods(tmp_path):
    command = [sys.executable, str(ROOT / "tools/benchmarks/imbalance.py"), "--out", str(tmp_path / "data"), "--json"]
    command += "--fewest 1 --most 3 --test 1 --seeds 1 --epochs 1 --only none balanced".split()
    one, again = (json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(2))
    assert one == again and len((tmp_path / "data" / "results.jsonl").read_text().splitlines()) == 2
    assert [row["method"] for row in one["rows"]] == ["none", "balanced"]
    draws = (tmp_path / "data" / "seed_0" / "balanced" / "class_balance.csv").read_text().splitlines()[1:]
    assert {line.split(",")[3] for line in draws} == {"1.88"}, "15 videos, 8 classes"
