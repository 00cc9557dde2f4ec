"""Models of the user: files, callables and entry points fill roles; anything else is refused by name."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tokenizers_mm.evaluation import models
from tokenizers_mm.evaluation.models import find_models, register_model

ROLES = {"utmos": "a MOS", "embed": "an embedding"}


class Mean(torch.nn.Module):
    def forward(self, signal: Tensor) -> Tensor:
        return signal.mean(dim=1)


class Rated(torch.nn.Module):
    def forward(self, signal: Tensor, rate: int) -> Tensor:
        return signal.mean(dim=1) + rate


def loudest(signal: Tensor, rate: int) -> float:
    return float(signal.abs().max())


@pytest.mark.parametrize(("module", "expected"), [(Mean(), 2.0), (Rated(), 16002.0)])
def test_a_torchscript_file_gets_a_batch_of_one(tmp_path: Path, module: torch.nn.Module, expected: float):
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(module), path)
    model = find_models(ROLES, {"utmos": path})["utmos"]
    assert float(model.call(torch.tensor([1.0, 3.0]), 16000)) == expected
    assert model.source.startswith("model.pt sha256:")


def test_an_onnx_file_gets_the_same(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("x", kind, [1, None])],
        [helper.make_tensor_value_info("y", kind, [1])],
    )
    path = tmp_path / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    assert float(find_models(ROLES, {"utmos": path})["utmos"].call(torch.tensor([1.0, 3.0]), 16000)) == 2


def test_callables_come_from_arguments_registration_and_entry_points(monkeypatch: pytest.MonkeyPatch):
    assert find_models(ROLES) == {}
    given = find_models(ROLES, {"utmos": loudest})["utmos"]
    assert (given.call, given.source) == (loudest, f"{__name__}:loudest")
    named = find_models(ROLES, {"utmos": "math:fsum"})["utmos"]
    assert (named.call([1, 2]), named.source) == (3, "math:fsum")

    monkeypatch.setattr(models, "_registered", {})
    register_model("embed", loudest)
    assert find_models(ROLES)["embed"].call is loudest
    assert find_models(ROLES, {"embed": max})["embed"].call is max

    plugged = EntryPoint("utmos", "math:fsum", models.GROUP)
    monkeypatch.setattr(models, "entry_points", lambda group, name: [plugged] if name == "utmos" else [])
    assert find_models(ROLES)["utmos"].source == "math:fsum"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"mos": max}, ValueError, r"unknown models \['mos'\]: expected some of \['embed', 'utmos'\]"),
        ({"utmos": "gone.pt"}, FileNotFoundError, "'utmos': there is no file 'gone.pt'"),
        ({"utmos": "weights.bin"}, ValueError, "'module:name' of a callable, got 'weights.bin'"),
        ({"utmos": "math:nothing"}, ValueError, "'module:name' of a callable, got 'math:nothing'"),
        ({"utmos": "no_such_module_at_all:f"}, ValueError, "no_such_module_at_all"),
        ({"utmos": "math:pi"}, ValueError, "callable"),
    ],
)
def test_what_cannot_be_a_model_is_refused(given: dict, error: type, message: str):
    with pytest.raises(error, match=message):
        find_models(ROLES, given)


def test_a_file_that_is_not_torchscript_is_refused(tmp_path: Path):
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"weights\.pt is not TorchScript"):
        find_models(ROLES, {"utmos": path})
    with pytest.raises(TypeError, match="callable"):
        register_model("utmos", 3)  # type: ignore[arg-type]
