"""The notebook of the docs runs from top to bottom, offline, and comes without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "digits.ipynb"


pytest.importorskip("gradio", reason="the extra `demo` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "goes on with the run" in printed
    assert "paired" in printed or "difference" in printed
    assert (tmp_path / "published" / "model.safetensors").is_file()
    assert (tmp_path / "runs" / "notebook-one-cycle" / "export" / "model.onnx").is_file()
    assert "top-1" in printed[printed.index("model.onnx") :]
    assert {"app.py", "requirements.txt", "models"} <= {path.name for path in (tmp_path / "space").iterdir()}
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(pictures) == 2


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
