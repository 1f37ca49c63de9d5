"""docs/quickstart.ipynb runs from top to bottom, uses the public interface only, and is stored as it ran."""

import ast
import base64
import io
import re

import nbformat
import pytest
from conftest import ROOT, load_script
from PIL import Image

import slowfast_uniformer

tool = load_script("tools/run_notebook.py")
TEXT = (ROOT / "docs/quickstart.ipynb").read_text(encoding="utf-8")
PICTURES = ["preview(", "plt.subplots(", "plot_confusion(", "explain("]  # the last cells' calls that show one
OF_A_MACHINE = [  # what a stored output must not hold
    r"(?<![\w.])/(?:home|root|tmp|work|usr|opt|var|mnt|Users)/",
    r"\b\d+:\d\d\b|\d\d\d\d-\d\d-\d\d|clips/s|\beta \d|\d s\b",
    r"\bat 0x[0-9a-f]+",
    r"Warning:|Traceback",
]


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.reads(TEXT, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: nbformat.NotebookNode) -> list[str]:
    """The kinds of a cell's outputs: the names of streams, and the types of pictures and values."""
    return [name for output in cell.outputs for name in ([output.name] if "name" in output else sorted(output.data))]


def written(notebook: nbformat.NotebookNode) -> str:
    """The text of all outputs."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "\n".join([output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs])


def accuracy(notebook: nbformat.NotebookNode) -> float:
    return float(re.search(r"^top-1 ([\d.]+) % \[", written(notebook), re.MULTILINE)[1])


def test_cells_parse_and_use_the_public_interface_only(notebook):
    used = set()
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.Import) or {name.name for name in node.names} <= {"os", "matplotlib.pyplot"}
            if isinstance(node, ast.ImportFrom):
                assert node.module in ("slowfast_uniformer", "pathlib"), node.module
                used |= {name.name for name in node.names if node.module == "slowfast_uniformer"}
            assert not isinstance(node, ast.Attribute) or not node.attr.startswith("_")
    assert used == set(slowfast_uniformer.__all__) - {"list_recipes"}
    assert max(len(cell.source.splitlines()) for cell in code_cells(notebook)) <= 12


def test_it_is_stored_as_it_ran_in_order_and_without_errors(notebook):
    cells = code_cells(notebook)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert {name for cell in cells for name in shown(cell)} == {"stdout", "image/png", "text/plain"}
    pictured = [cell for cell in cells if "image/png" in shown(cell)]
    assert len(pictured) == len(PICTURES)
    assert all(call in cell.source for call, cell in zip(PICTURES, pictured, strict=True))
    assert accuracy(notebook) > 80  # a guess is right for 12.5 %


def test_it_is_small_and_shows_nothing_of_the_machine_that_ran_it(notebook):
    assert len(TEXT.encode()) < tool.LARGEST
    for pattern in OF_A_MACHINE:
        assert not re.search(pattern, written(notebook)), pattern
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                image = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
                assert image.mode == "P" and 400 < image.width <= tool.WIDTH and not image.info
    tidied = nbformat.reads(TEXT, as_version=4)
    for cell in code_cells(tidied):  # compressing pictures twice changes them
        cell.outputs = [output for output in cell.outputs if "image/png" not in output.get("data", {})]
    before = nbformat.writes(tidied)
    tool.tidy(tidied)
    assert nbformat.writes(tidied) == before


def test_what_a_machine_leaves_is_found():
    texts = ["see /home/me/runs", "epoch 1  clips/s 103", "<Figure at 0x7f3a>", "UserWarning: odd", "took 12 s"]
    assert all(any(re.search(pattern, text) for pattern in OF_A_MACHINE) for text in texts)
    fine = "epoch 1 mean  loss 2.04  top1 17\nquickstart/data/videos\n<Figure size 650x550 with 2 Axes>\nand/or"
    assert not any(re.search(pattern, fine) for pattern in OF_A_MACHINE)


def test_outputs_are_made_small_and_stable():
    noise, data = Image.effect_noise((1200, 300), 90), io.BytesIO()
    noise.convert("RGB").save(data, "PNG", dpi=(72, 72))
    png = base64.b64encode(data.getvalue()).decode()
    output = nbformat.v4.new_output("display_data", {"image/png": png, "image/jpeg": "x"}, metadata={"a": 1})
    cell = nbformat.v4.new_code_cell("1", outputs=[output], metadata={"execution": {"iopub.execute_input": "now"}})
    notebook = nbformat.v4.new_notebook(
        cells=[cell], metadata={"language_info": {"name": "python", "version": "3.11.7"}}
    )
    tool.tidy(notebook)
    nbformat.validate(notebook)
    assert list(output.data) == ["image/png"] and len(output.data["image/png"]) < len(png) / 2
    assert (cell.metadata, output.metadata, cell.id) == ({}, {}, "cell-1")
    assert notebook.metadata.kernelspec.name == "python3" and "version" not in notebook.metadata.language_info


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_in_an_empty_folder(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")  # as commands set it, which once hid the pictures
    stored = [shown(cell) for cell in code_cells(notebook)]
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    tool.run(notebook, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart"]
    tool.tidy(notebook)
    assert [shown(cell) for cell in code_cells(notebook)] == stored
    assert accuracy(notebook) > 80
    assert len(nbformat.writes(notebook).encode()) < tool.LARGEST
