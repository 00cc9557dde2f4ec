"""The package as users get it: light to import, complete as a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tokenizers_mm as tm
from tokenizers_mm import registry

ROOT = Path(registry.__file__).parents[1]
HEAVY = "{'lightning', 'pytorch_lightning', 'transformers', 'torchaudio', 'torchmetrics', 'matplotlib', 'tensorboard'}"


def python(code: str, cwd: Path, path: Path) -> str:
    """Output of a fresh interpreter that finds the package under ``path`` only."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    result = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import tokenizers_mm",
        "import tokenizers_mm as tm; [getattr(tm, name) for name in tm.__all__]; tm.list_codecs()",
        "import tokenizers_mm.audio; tokenizers_mm.audio.WavTokenizer",
        "import tokenizers_mm as tm, torch; tm.load('wavtokenizer-causal', pretrained=False).encode(torch.zeros(1, 1, 900))",
    ],
)
def test_import_stays_light(statement: str, tmp_path: Path) -> None:
    python(f"{statement}\nimport sys\nfound = {HEAVY} & sys.modules.keys()\nassert not found, found", tmp_path, ROOT)


def test_bare_import_does_not_even_load_torch(tmp_path: Path) -> None:
    python("import tokenizers_mm, sys; assert 'torch' not in sys.modules", tmp_path, ROOT)


def test_public_names_exist_and_unknown_ones_do_not() -> None:
    assert {"load", "list_codecs", "register", "Tokens", "TokenSpec", "Codec", "BitstreamError"} <= set(dir(tm))
    assert all(getattr(tm, name) is not None for name in tm.__all__)
    assert issubclass(tm.BitstreamError, ValueError)
    assert not hasattr(tm, "nonsense")
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tm.nonsense


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(folder.glob("*.whl"))


def test_wheel_holds_the_data_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind in ("codecs", "recipes", "checkpoints", "eval"):
        ours = {
            str(p.relative_to(ROOT)) for p in (ROOT / kind).rglob("*") if p.is_file() and "__pycache__" not in p.parts
        }
        assert {f"tokenizers_mm/_data/{name}" for name in ours} <= names
    assert "tokenizers_mm/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "codecs/", "eval/")) for name in names)
    assert wheel.stat().st_size < 90e6  # twenty-one checkpoints of up to 10 MB


def test_installed_wheel_finds_cards_recipes_suites_and_weights(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    code = """
import torch, tokenizers_mm as tm
from tokenizers_mm import registry
assert tm.__file__.startswith(SITE), tm.__file__
for kind in ("codecs", "recipes", "checkpoints", "eval"):
    assert str(registry.data_path(kind)).startswith(SITE)
assert list(registry.data_path("recipes").rglob("*.yaml"))
assert list((registry.data_path("eval") / "suites").glob("*.yaml"))
assert (registry.data_path("eval") / "samples" / "manifest.csv").is_file()
for card in tm.list_codecs():
    if card.shipped and card.modality == "text":
        assert tm.load(card.name).reconstruct(["ein Wort, 世界"]) == ["ein Wort, 世界"]
    elif card.shipped:
        codec = tm.load(card.name)
        size = (48, 64) if card.modality == "image" else (9000,)
        wave = torch.sin(torch.arange(9000) / 9)[: torch.Size(size).numel()] / 4 + 0.5
        wave = wave.reshape(1, 1, *size).expand(-1, codec.spec.channels or 1, *[-1] * len(size))
        assert codec.reconstruct(wave).shape == wave.shape
assert tm.load("entropy-bytes").words("ein Wort")
print(*[card.name for card in tm.list_codecs()])
"""
    names = python(f"SITE = {str(site)!r}\n{code}", elsewhere, site).split()
    assert names == [card.name for card in tm.list_codecs()]
    script = site / "bin" / "mmtok"
    result = subprocess.run(
        [sys.executable, str(script), "list", "*-40"], env={**os.environ, "PYTHONPATH": str(site)}, cwd=elsewhere,
        capture_output=True, text=True,
    )  # fmt: skip
    assert "wavtokenizer-40" in result.stdout
