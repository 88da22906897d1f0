"""Executes the notebook of docs/notebooks on the demo, and renews what is committed of it.

    python -m tests.support.notebooks [DEMO]

writes the outputs of explore.ipynb, cluster.ipynb without outputs, and the picture in the README, which takes Chromium.
DEMO is the folder of `make demo`, made with the ImageNet weights.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

from conf.spark.java import find_java
from tests.support.streams import PROJECT

NOTEBOOKS = PROJECT / "docs" / "notebooks"
PICTURE = PROJECT / "docs" / "images" / "result.png"

_ASKED = "pictures/monday/Lime/000033.jpg"
_WIDTH, _HEIGHT = 1000, 628


def execute(name: str, demo: Path) -> nbformat.NotebookNode:
    """A notebook by its text, with the outputs that its cells have on a demo.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell has failed; the message has its traceback.
    """
    notebook = as_notebook(name)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": NOTEBOOKS}})
    here = {"DEMO": str(demo), "PYTHONPATH": str(PROJECT), "JAVA_HOME": str(find_java()), "SPARK_LOCAL_IP": "127.0.0.1"}
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # or t-SNE waits for cores that tests share
    short = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1"}  # half the time, as little of Spark runs often
    client.execute(env={**os.environ, **here, **one_thread, **short})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":  # without what Java says as it starts
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def as_notebook(name: str) -> nbformat.NotebookNode:
    """The text of a notebook as a notebook, whose cells have the same ids each time."""
    notebook: nbformat.NotebookNode = jupytext.read(NOTEBOOKS / f"{name}.py")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{name}-{number}"
    return notebook


def _photograph(demo: Path) -> bytes:
    """The page of `similar`, as a browser shows it, as a PNG of few colours."""
    with TemporaryDirectory() as folder:
        page, shot = Path(folder, "similar.html"), Path(folder, "similar.png")
        verb = ["similar", str(demo / _ASKED), "--table", str(demo / "output"), "--html", str(page)]
        subprocess.run([sys.executable, "-m", "streaming", *verb], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
        page.write_text(page.read_text(encoding="utf-8").replace(str(demo), "/data"), encoding="utf-8")
        window = f"--window-size={_WIDTH},{_HEIGHT}"
        browser = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", window, f"--screenshot={shot}"]
        subprocess.run([*browser, page.as_uri()], check=True, stderr=subprocess.DEVNULL)
        few = Image.open(shot).convert("RGB").quantize(256)  # half the bytes
    png = io.BytesIO()
    few.save(png, "PNG", optimize=True)
    return png.getvalue()


def main() -> None:
    """Renew the files from the command line."""
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else PROJECT / "demo").resolve()
    PICTURE.write_bytes(_photograph(demo))
    for name, notebook in (("explore", execute("explore", demo)), ("cluster", as_notebook("cluster"))):
        text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)  # as Jupyter saves it
        (NOTEBOOKS / f"{name}.ipynb").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
