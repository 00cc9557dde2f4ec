"""Cards, loading by name, folder and hub, plug-ins, wings."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants

import tokenizers_mm as tm
from tokenizers_mm import registry
from tokenizers_mm.cards import Card, CardError, read_card
from tokenizers_mm.codec import CodecOutput

TINY = {
    "sample_rate": 16000,
    "strides": [2, 4, 5, 8],
    "n_filters": 4,
    "encoder_dim": 32,
    "dim": 32,
    "intermediate_dim": 64,
    "layers": 2,
    "quantizer": {"kind": "vq", "codebook_size": 64, "kmeans_iters": 0},
}


def mapping(**changes: Any) -> dict[str, Any]:
    """A valid card of a tiny codec, with some keys changed; a change to None removes the key."""
    base = {
        "name": "tiny",
        "modality": "audio",
        "class": "tokenizers_mm.audio.WavTokenizer",
        "config": TINY,
        "spec": {"codebook_sizes": [64], "hop": [320], "sample_rate": 16000},
        "checkpoint": "tiny",
        "licence": "Apache-2.0",
        "summary": "A codec for tests.",
        "training_data": "none",
        "paper": {"title": "T", "authors": "A", "year": 2024, "url": "https://example.org"},
        "taxonomy": {
            "encoder": "CNN+RNN",
            "decoder": "CNN+T",
            "representation": "both",
            "quantization": ["SVQ"],
            "bitrate": "fixed",
            "objectives": ["Rec"],
            "joint": True,
            "streamable": False,
            "domains": ["speech"],
        },
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def write_card(folder: Path, card: dict[str, Any], name: str = "tiny") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(card), encoding="utf-8")
    return path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A plug-in's data: codecs/tiny.yaml and checkpoints/tiny with weights."""
    write_card(tmp_path / "codecs", mapping())
    from tokenizers_mm.audio import WavTokenizer

    WavTokenizer(**TINY).save_pretrained(tmp_path / "checkpoints" / "tiny")
    return tmp_path


# -- the cards that ship -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", tm.list_codecs(), ids=lambda card: card.name)
def test_card_agrees_with_the_codec_that_it_describes(card: Card) -> None:
    with torch.device("meta"):
        codec = registry.build(card)
    assert codec.spec == card.spec
    assert codec.streamable == card.taxonomy.streamable
    assert codec.spec.modality == card.modality
    if card.shipped:
        config = json.loads((card.checkpoint_folder / "config.json").read_text())
        assert config.pop("class") == type(codec).__name__
        assert {key: config[key] for key in card.config} == card.config
        assert registry._construct(type(codec), config, {}, "checkpoint").config == registry.build(card).config
        size = sum(f.stat().st_size for f in card.checkpoint_folder.iterdir())
        assert size < 10e6
        assert (card.checkpoint_folder / "README.md").is_file()


@pytest.mark.parametrize(("name", "rate", "kbps", "parameters"), [
    ("wavtokenizer-40", 40, 0.48, 72_111_714),
    ("wavtokenizer-75", 75, 0.90, 71_750_146),
])  # fmt: skip
def test_published_configurations_have_published_numbers(name: str, rate: int, kbps: float, parameters: int) -> None:
    card = registry.get_card(name)
    assert card.spec.frame_rate == rate
    assert card.spec.bitrate == pytest.approx(1000 * kbps)
    with torch.device("meta"):
        codec = registry.build(card)
    assert sum(p.numel() for p in codec.parameters()) == parameters


@pytest.mark.parametrize("card", tm.list_codecs(), ids=lambda card: card.name)
def test_a_shipped_recipe_trains_the_codec_of_every_card(card: Card) -> None:
    """The recipe of a codec gives the class the same configuration as its card; for weights of others, any of the class does."""
    if card.checkpoint and card.checkpoint.startswith("hf:"):
        pytest.skip("its weights are somebody else's, and so is its network")
    if card.needs_no_weights:
        pytest.skip("there is nothing to train")
    if card.taxonomy.encoder == card.taxonomy.decoder == "none" and not card.taxonomy.objectives:
        text = (card.checkpoint_folder / "README.md").read_text()
        assert re.search(rf"^mmtok .*-o checkpoints/{card.name}\b", text, re.MULTILINE), (
            "learned by a command, not by gradients"
        )
        return
    recipes = [yaml.safe_load(path.read_text()) for path in registry.data_path("recipes").rglob("*.yaml")]
    arguments = [recipe["model"]["init_args"] for recipe in recipes]
    codecs = [given["codec"] for given in arguments if "codec" in given]  # others train detectors
    codecs = [codec if isinstance(codec, dict) else {"class_path": codec, "init_args": {}} for codec in codecs]
    if card.published or card.training_data.startswith("None shipped"):
        assert card.class_path in [codec["class_path"] for codec in codecs]
    else:
        assert {"class_path": card.class_path, "init_args": card.config} in codecs


def test_list_filters_by_pattern_and_modality() -> None:
    names = [card.name for card in tm.list_codecs()]
    assert names == sorted(names)
    assert {"wavtokenizer-40", "wavtokenizer-75", "wavtokenizer-causal", "wavtokenizer-speech-16k"} <= set(names)
    assert [card.name for card in tm.list_codecs("*-40", modality="audio")] == ["wavtokenizer-40"]
    assert tm.list_codecs(modality="smell") == []
    assert tm.list_codecs("nothing*") == []


# -- wrong cards -------------------------------------------------------------------------------------------------------


def set_key(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(card: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            card = card[parent]
        card[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "key", "fault"),
    [
        (set_key("licens", "MIT"), "licens", "did you mean 'licence'"),
        (set_key("taxonomy.streamble", True), "taxonomy.streamble", "did you mean 'streamable'"),
        (set_key("taxonomy.bitrate", "sometimes"), "taxonomy.bitrate", "'fixed' or 'adaptive'"),
        (set_key("taxonomy.quantization", ["XVQ"]), "taxonomy.quantization.0", "'SVQ'"),
        (set_key("spec.codebook_sizes", [0]), "spec", "codebook_sizes must hold sizes"),
        (set_key("spec.codebook_size", [64]), "spec", "codebook_size"),
        (set_key("spec", 5), "spec", "mapping"),
        (set_key("class", "WavTokenizer"), "class", "pattern"),
        (set_key("paper.year", "soon"), "paper.year", "integer"),
        (set_key("name", "Other Name"), "name", "pattern"),
        (set_key("name", "other"), "name", "must be the file's"),
        (set_key("checkpoint", "hf:"), "checkpoint", "empty"),
        (
            set_key("results", [{"data": "d", "command": "c", "metrics": {"stoi": "good"}}]),
            "results.0.metrics.stoi",
            "number",
        ),
        (lambda card: card.pop("licence"), "licence", "is missing"),
        (lambda card: card["taxonomy"].pop("joint"), "taxonomy.joint", "is missing"),
    ],
)
def test_wrong_card_names_file_key_and_fault(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], key: str, fault: str
) -> None:
    card = json.loads(json.dumps(mapping()))
    change(card)
    path = write_card(tmp_path, card)
    with pytest.raises(CardError) as caught:
        read_card(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {key}: ")
    assert fault in message


@pytest.mark.parametrize("text", ["name: [unclosed", "- a list", "", "\x00", "just words"])
def test_file_that_is_no_card_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    with pytest.raises(CardError, match=r"tiny\.yaml: (not YAML|must hold a mapping)"):
        tm.register(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": {**TINY, "strides": [2, 4], "layrs": 2}}, r"config\.layrs: .* did you mean 'layers'"),
        ({"config": {**TINY, "encoder": "lstm"}}, "config: WavTokenizer refuses it: encoder must be"),
        ({"spec": {"codebook_sizes": [64], "hop": [160], "sample_rate": 16000}}, "spec: the codec's is"),
        ({"class": "tokenizers_mm.audio.WavTokeniser"}, "class: cannot import"),
        ({"class": "tokenizers_mm.nowhere.WavTokenizer"}, "class: cannot import"),
        ({"class": "pathlib.Path"}, "class: pathlib.Path is not a Codec"),
    ],
)
def test_card_that_does_not_fit_its_class_is_refused_on_load(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = write_card(tmp_path, mapping(**changes))
    tm.register(path)
    with pytest.raises(CardError, match=words) as caught:
        tm.load("tiny", pretrained=False)
    assert str(path) in str(caught.value)


# -- loading -----------------------------------------------------------------------------------------------------------


def test_name_and_folder_give_the_same_codec(site: Path) -> None:
    tm.register(site / "codecs")
    by_name, by_folder = tm.load("tiny"), tm.load(site / "checkpoints" / "tiny")
    x = torch.randn(1, 1, 4000) / 10
    assert not by_name.training
    assert by_name.config == by_folder.config
    assert by_name.encode(x) == by_folder.encode(x)
    assert torch.equal(by_name.reconstruct(x), by_folder.reconstruct(x))


def test_unknown_name_gives_the_nearest_ones() -> None:
    with pytest.raises(ValueError, match=r"did you mean.*wavtokenizer-40"):
        tm.load("wavtokeniser-40")
    with pytest.raises(ValueError, match=r"known: .*wavtokenizer-40"):
        tm.load("zzz")


def test_card_without_weights_says_so_and_gives_random_ones_on_request() -> None:
    with pytest.raises(ValueError, match=r"no weights ship.*pretrained=False.*novateur/WavTokenizer"):
        tm.load("wavtokenizer-40")
    codec = tm.load("wavtokenizer-causal", pretrained=False)
    assert codec.spec == registry.get_card("wavtokenizer-causal").spec


def test_overrides_change_the_configuration() -> None:
    tm.register(mapping(checkpoint=None) | {"checkpoint": None})
    codec = tm.load("tiny", pretrained=False, quantizer={"kind": "fsq", "levels": [4, 4]})
    assert codec.spec.codebook_sizes == (16,)
    with pytest.raises(ValueError, match=r"overrides\.casual: .*did you mean 'causal'"):
        tm.load("tiny", pretrained=False, casual=True)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_folder_that_lacks_a_file_names_it(site: Path, missing: str) -> None:
    folder = site / "checkpoints" / "tiny"
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        tm.load(folder)


def test_missing_folder_is_not_taken_for_a_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a folder"):
        tm.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="not a folder"):
        tm.load("./nowhere")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "mapping"),
        ('{"class": "os.system"}', "class must be one of"),
        ('{"class": ["WavTokenizer"]}', "class must be one of"),
        ("{}", "class must be one of"),
        ('{"class": "WavTokenizer", "layrs": 1}', r"layrs: .*did you mean 'layers'"),
    ],
)
def test_hostile_or_broken_config_is_one_clear_error(site: Path, text: str, words: str) -> None:
    folder = site / "checkpoints" / "tiny"
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        tm.load(folder)
    assert "config.json" in str(caught.value)


def test_config_never_chooses_what_is_imported(site: Path) -> None:
    """A module that would leave a mark when imported is not, whatever a downloaded file says."""
    (site / "evil.py").write_text("raise SystemExit('imported')")
    folder = site / "checkpoints" / "tiny"
    sys.path.insert(0, str(site))
    try:
        for name in ("evil.Codec", "evil", "tokenizers_mm.audio.WavTokenizer"):
            (folder / "config.json").write_text(json.dumps({"class": name, **TINY}))
            with pytest.raises(ValueError, match="class must be one of"):
                tm.load(folder)
    finally:
        sys.path.remove(str(site))
    assert "evil" not in sys.modules


def fill_hub_cache(cache: Path, repo: str, folder: Path, names: list[str]) -> None:
    """The layout that huggingface_hub downloads into."""
    root, commit = cache / f"models--{repo.replace('/', '--')}", "0" * 40
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    for name in names:
        (snapshot / name).write_bytes((folder / name).read_bytes())


def test_hub_repository_loads_from_the_local_cache(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = site / "checkpoints" / "tiny", site / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(cache))
    fill_hub_cache(cache, "someone/tiny", folder, ["config.json", "model.safetensors"])
    x = torch.randn(1, 1, 2000) / 10
    assert tm.load("hf:someone/tiny").encode(x) == tm.load(folder).encode(x)
    fill_hub_cache(cache, "someone/half", folder, ["config.json"])
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors of hf:someone/half .*`hf download someone/half"):
        tm.load("hf:someone/half")
    tm.register(mapping(checkpoint="hf:someone/tiny"))
    assert tm.load("tiny").encode(x) == tm.load(folder).encode(x)


ENCODEC = {"strides": [4, 5], "n_filters": 4, "dim": 8, "lstm_layers": 1, "codebook_size": 16, "num_codebooks": 4}


@pytest.fixture
def encodec(tmp_path: Path) -> tuple[tm.Codec, Path]:
    """A tiny codec over a model of transformers with a card ``tiny-encodec``, and a folder that transformers wrote."""
    pytest.importorskip("transformers")
    from tokenizers_mm.audio import Encodec

    codec = Encodec(**ENCODEC).eval()
    codec.model.save_pretrained(tmp_path / "theirs")
    spec = {"codebook_sizes": [16] * 4, "hop": [20], "sample_rate": 24000, "scalable": "columns"}
    paths = {"class": "tokenizers_mm.audio.Encodec", "checkpoint": "hf:someone/encodec"}
    tm.register(mapping(**paths, name="tiny-encodec", config=ENCODEC, spec=spec))
    return codec, tmp_path / "theirs"


def test_card_takes_weights_of_transformers_from_cache_file_or_folder(
    encodec: tuple[tm.Codec, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, folder = encodec
    x = torch.randn(1, 1, 500) / 10
    for weights in (folder, folder / "model.safetensors"):
        assert tm.load("tiny-encodec", weights=weights).encode(x) == codec.encode(x)
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(cache))
    with pytest.raises(FileNotFoundError) as caught:
        tm.load("tiny-encodec")
    for words in (
        "model.safetensors of hf:someone/encodec is neither in the local hub cache nor",
        "`hf download someone/encodec model.safetensors --local-dir tiny-encodec`",
        "tm.load('tiny-encodec', weights='tiny-encodec')",
    ):
        assert words in str(caught.value)
    fill_hub_cache(cache, "someone/encodec", folder, ["model.safetensors"])
    assert tm.load("tiny-encodec").encode(x) == codec.encode(x)


def test_weights_that_do_not_fit_say_what_to_do(encodec: tuple[tm.Codec, Path], site: Path) -> None:
    _, folder = encodec
    with pytest.raises(ValueError, match=r"that of a transformers model: give it.*weights=.*'tiny-encodec'"):
        tm.load(folder)
    with pytest.raises(ValueError, match="does not fit Encodec"):
        tm.load("tiny-encodec", weights=site / "checkpoints" / "tiny")
    with pytest.raises(ValueError, match="weights are given to a card's name"):
        tm.load(folder, weights=folder)
    with pytest.raises(ValueError, match="weights are given to a card's name"):
        tm.load("tiny-encodec", weights=folder, pretrained=False)
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere"):
        tm.load("tiny-encodec", weights=site / "nowhere")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(
        FileNotFoundError, match=r"no model\.safetensors in .*pytorch_model\.bin there must be converted"
    ):
        tm.load("tiny-encodec", weights=folder)


def test_card_whose_weights_need_conversion_gives_the_commands() -> None:
    with pytest.raises(ValueError) as caught:
        tm.load("wavtokenizer-75")
    assert "`hf download novateur/WavTokenizer WavTokenizer_small_320_24k_4096.ckpt --local-dir .`" in str(caught.value)
    assert "`mmtok convert wavtokenizer WavTokenizer_small_320_24k_4096.ckpt wavtokenizer-75`" in str(caught.value)


def test_every_card_that_needs_conversion_says_how() -> None:
    needy = [card for card in tm.list_codecs() if card.weights_source.startswith("convert")]
    assert len(needy) >= 2
    for card in needy:
        published = card.published[0]
        with pytest.raises(ValueError) as caught:
            tm.load(card.name)
        for words in (published.repo, published.file or "", "`mmtok convert ", f" {card.name}`"):
            assert words in str(caught.value)
        if card.modality == "audio":
            assert "FAMILY" not in str(caught.value)


def test_malformed_hub_name_is_refused() -> None:
    with pytest.raises(ValueError, match="hf:owner/name"):
        tm.load("hf:///")


# -- register, plug-ins, wings -----------------------------------------------------------------------------------------


class OtherCodec(tm.Codec):
    """Keeps the sign of each sample: the smallest possible codec."""

    def __init__(self, sample_rate: int = 8000) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.spec = tm.TokenSpec(modality="audio", codebook_sizes=(2,), hop=(1,), sample_rate=sample_rate)

    def _encode(self, x: torch.Tensor, lengths: torch.Tensor) -> tm.Tokens:
        return tm.Tokens((x[:, 0, :, None] > 0).long(), self.spec)

    def _decode(self, tokens: tm.Tokens) -> torch.Tensor:
        return self.scale * (tokens.ids[None, ..., 0].transpose(0, 1) * 2.0 - 1)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> CodecOutput:
        return CodecOutput(self.scale * x.sign(), (x[:, 0, :, None] > 0).long(), x.new_zeros(()))


def test_registered_class_makes_its_folders_loadable(tmp_path: Path) -> None:
    OtherCodec(4000).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"class must be one of .* got 'OtherCodec'"):
        tm.load(tmp_path)
    tm.register(OtherCodec)
    codec = tm.load(tmp_path)
    assert codec.spec.sample_rate == 4000
    assert codec.reconstruct(torch.tensor([[[0.5, -0.2]]])).tolist() == [[[1.0, -1.0]]]


def test_names_cannot_be_taken_twice() -> None:
    tm.register(mapping())
    with pytest.raises(ValueError, match="'tiny' exists already"):
        tm.register(mapping())
    with pytest.raises(ValueError, match="exists already"):
        tm.register(mapping(name="wavtokenizer-40"))


@pytest.mark.parametrize("item", [3, None, object, [4]])
def test_register_refuses_what_is_no_card(item: object) -> None:
    with pytest.raises(TypeError, match="expected a Card"):
        tm.register(item)


class FakeEntryPoint:
    """What importlib.metadata hands out for a plug-in, without installing one."""

    def __init__(self, name: str, load: Callable[[], object]) -> None:
        self.name, self.value, self.load = name, f"plugin:{name}", load


def install_plugins(monkeypatch: pytest.MonkeyPatch, *points: FakeEntryPoint) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda **_: list(points))
    registry._installed.cache_clear()


def test_plugin_cards_join_as_folder_function_or_class(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugins(
        monkeypatch,
        FakeEntryPoint("folder", lambda: site / "codecs"),
        FakeEntryPoint("function", lambda: lambda: [mapping(name="tiny-2"), OtherCodec]),
    )
    assert {"tiny", "tiny-2", "wavtokenizer-40"} <= {card.name for card in tm.list_codecs()}
    assert tm.load("tiny").spec.codebook_sizes == (64,)
    OtherCodec().save_pretrained(site / "other")
    assert type(tm.load(site / "other")).__name__ == "OtherCodec"


def fail() -> object:
    raise ImportError("no module named radar")


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (fail, "no module named radar"),
        (lambda: lambda: [{"name": "x"}], "modality: is missing"),
        (lambda: lambda: [mapping(name="wavtokenizer-40")], "exists already"),
        (lambda: 5, "expected a Card"),
    ],
)
def test_broken_plugin_warns_and_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, load: Callable[[], object], words: str
) -> None:
    install_plugins(monkeypatch, FakeEntryPoint("broken", load), FakeEntryPoint("good", lambda: lambda: [mapping()]))
    with pytest.warns(RuntimeWarning, match=f"plug-in broken = plugin:broken is broken: .*{words}"):
        names = {card.name for card in tm.list_codecs()}
    assert {"tiny", "wavtokenizer-40"} <= names


def test_a_really_installed_plugin_is_found(site: Path) -> None:
    """A distribution on the path with an entry point, in a fresh interpreter."""
    (site / "radar_plugin.py").write_text(f"from pathlib import Path\nFOLDER = Path({str(site / 'codecs')!r})\n")
    dist = site / "radar_plugin-1.0.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: radar-plugin\nVersion: 1.0\n")
    (dist / "entry_points.txt").write_text(
        "[tokenizers_mm.codecs]\nradar = radar_plugin:FOLDER\n[tokenizers_mm.wings]\nradar = radar_wing\n"
    )
    (site / "radar_wing").mkdir()
    (site / "radar_wing" / "__init__.py").touch()
    (site / "radar_wing" / "files.py").write_text("EXTENSIONS = ('.radar',)\n")
    code = (
        f"import sys; sys.path[:0] = [{str(site)!r}, {str(Path(registry.__file__).parents[1])!r}]\n"
        "from tokenizers_mm import registry\n"
        "print(registry.load('tiny').spec.codebook_sizes, registry.wing('radar', 'files').EXTENSIONS)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=site)
    assert result.stdout.strip() == "(64,) ('.radar',)"


def test_wing_finds_rooms_and_names_what_is_missing() -> None:
    assert registry.wing("audio", "files").EXTENSIONS
    with pytest.raises(ValueError, match="the audio wing has no 'ballroom'"):
        registry.wing("audio", "ballroom")
    with pytest.raises(ValueError, match="no wing 'smell' is installed"):
        registry.wing("smell", "files")
    for hostile in ("audio.files", "../audio", "", "os"):
        with pytest.raises(ValueError, match="wing"):
            registry.wing(hostile, "files")


def test_matching_finds_cards_by_what_tokens_are() -> None:
    spec = registry.get_card("wavtokenizer-75").spec
    assert [card.name for card in registry.matching(spec)] == ["wavtokenizer-75"]
    rvq = {"codebook_sizes": [64, 64, 64], "hop": [320], "sample_rate": 16000, "scalable": "columns"}
    tm.register(mapping(name="scalable", spec=rvq))
    whole = registry.get_card("scalable").spec
    assert [card.name for card in registry.matching(whole.prefix(2))] == ["scalable"]


def test_data_path_names_what_an_installation_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for kind in ("codecs", "recipes", "checkpoints", "eval"):
        assert registry.data_path(kind).is_dir()
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "tokenizers_mm" / "registry.py"))
    with pytest.raises(FileNotFoundError, match="no 'codecs' folder"):
        registry.data_path("codecs")


def test_listing_is_quiet() -> None:
    assert not [p for p in importlib.metadata.entry_points(group=registry.CODEC_GROUP) if p.dist is None]
    registry._installed.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tm.list_codecs()
