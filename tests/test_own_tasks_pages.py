"""The tutorial's notebook is its page, and runs; the page on PyTorch does what it says."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


def generator():
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "docs" / "notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_is_the_page():
    module = generator()
    assert module.NOTEBOOK.read_text() == module.notebook(module.PAGE.read_text()), "run: python docs/notebook.py"


@pytest.mark.slow
def test_the_notebook_runs_on_a_small_subset(tmp_path, monkeypatch, capsys):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    random = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUTORIAL_TRAIN", "train.parquet")
    monkeypatch.setenv("TUTORIAL_NEW", "valid.parquet")
    monkeypatch.setenv(
        "TUTORIAL_OPTIONS", "--preset=fast --training.iterations=30 --training.meta-batch=4 --evaluation.no-baselines"
    )
    for name, tasks in (("train", 20), ("valid", 1)):
        number = 40 * tasks
        descriptors = random.normal(size=(number, 6)).astype(np.float32)
        active = descriptors[:, 0] * np.repeat(random.choice([-1, 1], tasks), 40) > 0
        table = pa.table(
            {
                "task": np.repeat([f"{name}{i}" for i in range(tasks)], 40),
                "active": active,
                "descriptors": pa.FixedSizeListArray.from_arrays(pa.array(descriptors.ravel()), 6),
            }
        )
        pq.write_table(table, f"{name}.parquet")
    names: dict[str, object] = {}
    for cell in json.loads((ROOT / "examples" / "own_tasks.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 17
    assert float(re.findall(r"accuracy (\d\.\d+)", capsys.readouterr().out)[-1]) > 0.5


@pytest.mark.slow
def test_the_encoder_computes_the_same_in_pytorch(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from innerloop import TabularMetaLearner
    from innerloop.tabular import artifact as model
    from innerloop.tabular import encoder
    from learners import untrained

    learned = untrained()
    model.save(learned, tmp_path / "runs" / "tutorial" / "model")
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pytorch.md").read_text(), flags=re.S)
    names: dict[str, object] = {}
    exec(first + second, names)
    random = np.random.default_rng(0)
    x = random.normal(size=(5, 5)).astype(np.float32)
    inputs = learned.preparation.encode({"size": x[:, 0], "price": x[:, 1], "bits": x[:, 2:]})
    with torch.no_grad():
        there = names["encoder"](torch.tensor(inputs.numbers)).numpy()  # pyright: ignore
    here = encoder.encode(learned.design, learned.meta.params["encoder"], inputs)
    np.testing.assert_allclose(there, here, atol=1e-5)
    assert isinstance(names["learner"], TabularMetaLearner)
