"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.main import get_command

import tokenizers_mm as tm
from tokenizers_mm import cli, registry
from tokenizers_mm.cards import markdown_table

ROOT = Path(registry.__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"<!-- run by tests/test_readme.py -->\n```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_python_snippets_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    assert len(SNIPPETS) == TEXT.count("```python") == 7
    exec(SNIPPETS[0], names)
    waves = names["waves"]
    assert isinstance(waves, torch.Tensor)
    assert waves.shape == (2, 1, 40000)
    assert waves[1, 0, :25000].any()
    assert not waves[1, 0, 25000:].any()
    for snippet in SNIPPETS[1:4]:
        exec(snippet, names)
    tokens, waves, ids, flat = (names[name] for name in ("tokens", "waves", "ids", "flat"))
    assert isinstance(tokens, tm.Tokens)
    assert isinstance(waves, torch.Tensor)
    assert waves.shape == (1, 2, 4410)
    assert torch.equal(ids, tokens.ids)
    assert flat.shape == (2, tokens.ids.shape[1] * 2, 1)
    for snippet in SNIPPETS[4:6]:
        exec(snippet, names)
    coarse, tokens = names["coarse"], names["tokens"]
    assert isinstance(coarse, torch.Tensor)
    assert coarse.shape == (2, 3, 100, 140)
    assert isinstance(tokens, tm.Tokens)
    assert tokens.shapes.tolist() == [[19, 700 // 80]]
    exec(SNIPPETS[6], names)
    waves, nats = names["waves"], names["nats"]
    assert isinstance(waves, torch.Tensor)
    assert isinstance(nats, torch.Tensor)
    assert waves.shape == (2, 1, 16000)
    assert nats.shape == (2, 50, 1)


def test_every_mmtok_line_parses() -> None:
    """Commands and options that the README shows exist."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.startswith("mmtok")]
    assert len(lines) >= 8
    for line in lines:
        group, args = get_command(cli.app), shlex.split(line, comments=True)[1:]
        while hasattr(group, "commands"):
            group = group.commands[args.pop(0)]
        group.make_context(line, list(args))


def test_links_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_table_of_codecs_is_that_of_the_cards() -> None:
    """After a change of cards: paste what ``tokenizers_mm.cards.markdown_table(tm.list_codecs())`` gives between the markers."""
    table = re.search(r"<!-- codecs: begin.*?-->\n(.*?)<!-- codecs: end -->", TEXT, flags=re.DOTALL)
    assert table is not None
    assert table[1] == markdown_table(registry.list_codecs())


def test_shell_scripts_are_executable_and_strict() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text()
