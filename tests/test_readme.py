"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.main import get_command

from tokenizers_mm import cli, registry

ROOT = Path(registry.__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"<!-- run by tests/test_readme.py -->\n```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_python_snippets_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    assert len(SNIPPETS) == TEXT.count("```python") == 2
    exec(SNIPPETS[0], names)
    waves = names["waves"]
    assert isinstance(waves, torch.Tensor)
    assert waves.shape == (2, 1, 40000)
    assert waves[1, 0, :25000].any()
    assert not waves[1, 0, 25000:].any()
    exec(SNIPPETS[1], names)


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


def test_links_and_listed_codecs_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    table = re.findall(r"^\| `([\w.-]+)` \|.*?\| (\S+) \| (\S+) \|", TEXT, flags=re.MULTILINE)
    listed = {name: (float(rate), float(kbps)) for name, rate, kbps in table}
    assert listed == {
        card.name: (card.spec.token_rate, round(card.spec.bitrate / 1000, 2)) for card in registry.list_codecs()
    }


def test_shell_scripts_are_executable_and_strict() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text()
