"""Image recipes: every one can be built, the small ones train, and their codecs are those of the cards."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tokenizers_mm import registry
from tokenizers_mm.image import losses

RECIPES = sorted((registry.data_path("recipes") / "image").glob("*.yaml"))
CARDS = {
    "vqgan-small": "vqgan-128",
    "vqgan-small-tuned": "vqgan-128",
    "vqgan-small-gan": "vqgan-128",
    "var-small": "var-128",
}
VARIANTS = {
    "titok-sl256",
    "titok-small",
    "maskgit-vq-small",
    "open-magvit2-small",
}  # of no card and not the class's defaults
TINY = [
    "trainer.max_steps=3",
    "trainer.val_check_interval=3",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.precision=32-true",
    "data.init_args.batch_size=2",
    "data.init_args.size=32",
]


@pytest.mark.parametrize("path", RECIPES, ids=[p.stem for p in RECIPES])
def test_recipes_name_what_exists(path: Path) -> None:
    recipe = yaml.safe_load(path.read_text())
    codec = recipe["model"]["init_args"]["codec"]
    if path.stem in CARDS:
        card = next(card for card in registry.list_codecs() if card.name == CARDS[path.stem])
        assert codec["class_path"].endswith(card.class_path.rsplit(".", 1)[-1])
        assert codec["init_args"] == card.config
    elif path.stem not in VARIANTS:
        assert isinstance(codec, str), "at the published scale the defaults are the published configuration"


@pytest.mark.parametrize("name", [p.stem for p in RECIPES if "small" in p.stem])
def test_small_recipes_train(name: str, tmp_path: Path) -> None:
    from tokenizers_mm.training.run import train

    codec = "model.init_args.codec.init_args"
    extra = [f"{codec}.encoder.layers=1", f"{codec}.tokens=4"] if name.startswith("titok") else [f"{codec}.channels=16"]
    extra += ["model.init_args.generator_start=1"] if name.endswith("gan") else []
    extra += [f"{codec}.scales=[1,2,4]"] if name.startswith("var") else []
    folder = train(name, [*TINY, *extra], output=tmp_path / "run")
    assert list((folder / "images").glob("step-*.png"))
    assert registry.load(folder / "codec").spec.modality == "image"
    head = (folder / "metrics.csv").read_text().splitlines()[0]
    assert "images/psnr" in head
    assert ("train/adaptive/patches" in head) == name.endswith("gan")


def test_published_recipes_want_weights_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses.torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"vgg16-397923af\.pth"):
        losses.LPIPS()
