"""Run docs/quickstart.ipynb and store it with its outputs: `python tools/run_notebook.py`, about two minutes.

`jupyter nbconvert --execute` would also store times and versions, which change from run to run, and each picture twice
in full colour.
"""

import base64
import io
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

from slowfast_uniformer.paths import atomic_write

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs/quickstart.ipynb"
WIDTH = 900  # most pixels of a stored picture
COLOURS = 256  # of its palette
LARGEST = 700_000  # bytes of the notebook


def run(notebook: nbformat.NotebookNode, folder: str | Path, timeout: float | None = None) -> None:
    """Execute all cells in `folder`, and put their outputs into the notebook.

    Args:
        notebook: The notebook.
        folder: Where its kernel starts.
        timeout: Seconds that a cell may take.

    Raises:
        CellExecutionError: A cell raises.
    """
    options = {"timeout": timeout, "kernel_name": "python3", "record_timing": False, "coalesce_streams": True}
    options |= {"iopub_timeout": 600, "raise_on_iopub_timeout": True}  # a busy machine sends a picture late
    # the kernel chooses Matplotlib's backend, which shows pictures; one that is set would hide them
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **options).execute(env=environment)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Make outputs small, and leave out what changes from run to run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells, 1):
        cell.id, cell.metadata = f"cell-{number}", {}
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop("image/jpeg", None)  # Pillow offers the same picture twice
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
                output.metadata = {}


def smaller(png: str) -> str:
    """A picture in base64, at most `WIDTH` pixels wide, in `COLOURS` colours."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode()


def main() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        run(notebook, folder)
    tidy(notebook)
    atomic_write(NOTEBOOK, nbformat.writes(notebook) + "\n")
    print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
