"""Execute ``first_run.ipynb`` on the local Google Cloud: ``python -m examples.run_notebook --write``.

The executed notebook is in the repository. ``--picture=docs/images/result.png`` also renders the last result of the
notebook as an image, with Chromium.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import PIL.Image
from nbclient import NotebookClient

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.sample_data.load import build_dataset

NOTEBOOK = Path(__file__).with_name("first_run.ipynb")
#: Seconds for one cell.
TIMEOUT_S = 300


def execute(environment: dict[str, str], directory: Path) -> Any:
    """Execute the notebook.

    Args:
        environment: Environment of the kernel, see :attr:`LocalCloud.environment`.
        directory: Working directory of the kernel.

    Returns:
        The notebook with its outputs, without times.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": str(directory)}}
    )
    programs = Path(sys.executable).parent
    client.execute(env={**os.environ, **environment, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:  # Beam loads jQuery for its interactive runner
            cell.outputs = [each for each in cell.outputs if "application/javascript" not in each.get("data", {})]
    return notebook


def html_outputs(notebook: Any) -> list[str]:
    """Return the HTML that the cells show."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return ["".join(output.data["text/html"]) for output in outputs if "text/html" in output.get("data", {})]


def draw(page: str, picture: Path) -> None:
    """Draw HTML as a PNG of 256 colors.

    Args:
        page: The HTML.
        picture: File of the PNG.
    """
    with tempfile.TemporaryDirectory() as directory:
        file, drawn = Path(directory) / "page.html", Path(directory) / "page.png"
        file.write_text(f'<body style="margin: 24px; background: white">{page}</body>', encoding="utf-8")
        chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        subprocess.run(  # noqa: S603 - our own
            [*chromium, f"--screenshot={drawn}", "--window-size=1120,700", file.as_uri()],
            check=True,
            capture_output=True,
        )
        PIL.Image.open(drawn).convert("RGB").quantize(256).save(picture, optimize=True)


def main() -> None:
    """Execute the notebook; write it with ``--write``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="replace the notebook with the executed one")
    parser.add_argument("--picture", type=Path, help="file for a PNG of the result of a run")
    arguments = parser.parse_args()
    with LocalCloud() as cloud, tempfile.TemporaryDirectory() as directory:
        build_dataset(cloud.url, cloud.project)
        notebook = execute(dict(cloud.environment), Path(directory))
    if arguments.write:
        nbformat.write(notebook, NOTEBOOK)
    if arguments.picture:
        shown = next(page for page in reversed(html_outputs(notebook)) if page.count("<img") >= 8)
        draw(shown, arguments.picture)


if __name__ == "__main__":
    main()
