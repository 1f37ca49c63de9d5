"""What an installed package holds: configs, data set scripts and labels, templates."""

import subprocess
import sys

import pytest
from conftest import ROOT

USE = """
from pathlib import Path
import slowfast_uniformer
from slowfast_uniformer.datasets import make_demo
root = Path(slowfast_uniformer.__file__).parent
assert root == Path({built!r}) / "slowfast_uniformer" and Path(make_demo.__file__).parent == root / "datasets"
assert slowfast_uniformer.make_demo is make_demo.make_demo
for path in slowfast_uniformer.list_recipes().values():
    assert root in Path(path).parents
cfg = slowfast_uniformer.load_config("k400/uniformer_s", runs_here=False)
print(len(slowfast_uniformer.list_recipes()), cfg.MODEL.MODEL_NAME)
"""


def test_an_installed_package_has_configs_data_set_scripts_and_templates(tmp_path):
    pytest.importorskip("setuptools")
    built = tmp_path / "lib"
    words = [sys.executable, "setup.py", "-q", "build", "--build-base", tmp_path, "--build-lib", built]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
    package = built / "slowfast_uniformer"
    for folder in ("configs", "datasets"):
        ours = {
            path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*.*") if "__pycache__" not in path.parts
        }
        assert ours == {path.relative_to(package / folder) for path in (package / folder).rglob("*.*")}
    files = [
        path
        for path in (ROOT / "slowfast_uniformer").rglob("*.*")
        if path.suffix != ".md" and "__pycache__" not in path.parts
    ]
    data = {path.relative_to(ROOT) for path in files}
    assert data <= {path.relative_to(built) for path in built.rglob("*.*")}
    words = [sys.executable, "-c", USE.format(built=str(built))]
    done = subprocess.run(words, cwd=tmp_path, env={"PYTHONPATH": str(built)}, capture_output=True, text=True)
    recipes = [path for path in (ROOT / "configs").rglob("*.yaml") if "_base_" not in path.parts]
    assert done.stdout.split() == [str(len(recipes)), "Uniformer"], done.stderr
