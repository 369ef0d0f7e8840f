"""Every notebook runs top to bottom in a folder of its own, and is kept without outputs."""

import sys
from pathlib import Path

import jupyter_client
import nbclient
import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A kernel of the Python that runs the tests, whatever kernels the user has."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spec = jupyter_client.kernelspec.KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python"
    )
    folder = tmp_path / "kernels" / "here"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(spec.to_json())
    specs = jupyter_client.kernelspec.KernelSpecManager(kernel_dirs=[str(tmp_path / "kernels")])
    return jupyter_client.AsyncKernelManager(kernel_name="here", kernel_spec_manager=specs)


def read(path):
    return nbformat.read(path, as_version=4)


def run(notebook, kernel, folder):
    """Executes the notebook in a folder, filling in its outputs; raises where a cell does."""
    folder.mkdir()
    client = nbclient.NotebookClient(notebook, km=kernel, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute()


def printed(cell):
    return "".join(output["text"] for output in cell["outputs"] if output["output_type"] == "stream")


def pictures(cell):
    return [output for output in cell["outputs"] if "image/png" in output.get("data", {})]


def test_there_are_notebooks():
    assert "quickstart" in [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_valid_and_has_no_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    names = [cell["id"] for cell in notebook.cells]
    assert len(set(names)) == len(names)
    for cell in notebook.cells:
        assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None), cell["id"]


@pytest.mark.slow
def test_quickstart(tmp_path, kernel):
    """It does not only run: the network learns, mistakes and curves are shown, and the loaded run says the same."""
    notebook = read(ROOT / "colabs" / "quickstart.ipynb")
    checks = """
        summary = json.loads((RUNS / "resnet" / "summary.json").read_text())
        assert found.metrics["accuracy"] == summary["final"]["test/accuracy"] > 0.9
        assert other.evaluate()["test"].metrics["accuracy"] > 0.8
        right = sum(said["class"] == class_names[record["label"]] for said, record in zip(predictions, records))
        assert right >= 7
    """
    notebook.cells.append(nbformat.v4.new_code_cell("\n".join(line.strip() for line in checks.splitlines())))
    run(notebook, kernel, tmp_path / "work")
    cells = {cell["id"]: cell for cell in notebook.cells if cell.cell_type == "code"}
    assert {name: len(pictures(cell)) for name, cell in cells.items() if pictures(cell)} == {
        "augment": 1,
        "curves": 2,
        "confusion": 1,
        "mistakes": 1,
        "compare-curves": 1,
    }
    assert "did you mean 'width'" in printed(cells["typo"])
    assert "Done" in printed(cells["train"]) and "Traceback" not in printed(cells["train"])
    for name, cell in cells.items():
        said = "".join(output["text"] for output in cell["outputs"] if output.get("name") == "stderr")
        complaints = [line for line in said.splitlines() if line and not line.startswith("WARNING:absl")]
        assert not complaints, f"{name}: {complaints}"
