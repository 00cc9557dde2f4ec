"""Substitution ciphers read by a lexinvariant language model: a probe on its states says which letter each symbol stands for.

The experiment of Huang et al., "Lexinvariant Language Models", NeurIPS 2023. The balance of rare letters in the probe, the
average over draws of rows and keys without two symbols for one letter are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tokenizers_mm.lm import symbols as ciphers
from tokenizers_mm.lm.lexinvariant import LexinvariantLM
from tokenizers_mm.lm.regularized import RegularizedLM
from tokenizers_mm.lm.symbol_study import BATCH
from tokenizers_mm.lm.symbols import ALPHABET, KeyProbe, cipher, occurrences, plain_ids
from tokenizers_mm.weights import CONFIG, read_config, read_weights

PROBE = "key_probe.safetensors"


def load_symbol_model(name: str | Path) -> LexinvariantLM:
    """The lexinvariant or regularised model in a folder, or one that ships; one annealed to the end as lexinvariant.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is of something else.
    """
    folder = _folder(name)
    kind = read_config(folder / CONFIG).get("class")
    if kind == LexinvariantLM.__name__:
        return LexinvariantLM.from_pretrained(folder)
    if kind != RegularizedLM.__name__:
        raise ValueError(f"{folder} must hold a LexinvariantLM or a RegularizedLM, got class {kind!r}")
    model = RegularizedLM.from_pretrained(folder)
    return model.lexinvariant() if model.share == 1 else model


@dataclass(frozen=True)
class Deciphered:
    """What became of a ciphered text.

    Args:
        key: The letter of each of its symbols.
        text: Recovered.
    """

    key: dict[str, str]
    text: str


@dataclass(frozen=True)
class Decipherer:
    """A lexinvariant model with the probe that reads keys off its states.

    Args:
        model: Of as many symbols as the alphabet has letters.
        probe: Learned from other texts.
        counts: How often each letter occurs in those, ``[V]``.
        alphabet: Letters by id.
    """

    model: LexinvariantLM
    probe: KeyProbe
    counts: Tensor
    alphabet: str = ALPHABET

    @classmethod
    def learn(
        cls, model: LexinvariantLM, texts: Tensor, generator: torch.Generator, alphabet: str = ALPHABET
    ) -> Decipherer:
        """Learn the probe from plain texts ``[B, L]``, each with a key of its own.

        Raises:
            ValueError: If the model is for another number of symbols.
        """
        if model.symbols != len(alphabet):
            raise ValueError(
                f"model must be of {len(alphabet)} symbols, the letters of the alphabet, got {model.symbols}"
            )
        ids, _ = cipher(texts, len(alphabet), generator)
        found = states(model, ids, generator)
        probe = KeyProbe(found, texts, len(alphabet), ridge=10.0, balanced=True)
        return cls(model, probe, occurrences(texts, len(alphabet)).sum(dim=0), alphabet)

    @classmethod
    def load(cls, name: str | Path) -> Decipherer:
        """From a folder that :meth:`save` wrote, or one that ships.

        Raises:
            FileNotFoundError: If it, or its probe, is missing.
        """
        folder = _folder(name)
        tensors = read_weights(folder / PROBE)
        alphabet = "".join(map(chr, tensors["alphabet"].tolist()))
        return cls(load_symbol_model(folder), KeyProbe.of(tensors["weight"]), tensors["counts"], alphabet)

    def save(self, folder: str | Path) -> None:
        """Write the model, its weights rounded to 16 bits, and the probe beside it."""
        self.model.save_pretrained(folder, dtype=torch.float16)
        letters = torch.tensor([ord(letter) for letter in self.alphabet])
        tensors = {"weight": self.probe.weight.float().contiguous(), "counts": self.counts, "alphabet": letters}
        save_file(tensors, Path(folder) / PROBE)

    def scores(self, ids: Tensor, generator: torch.Generator, draws: int = 4) -> Tensor:
        """How much speaks for each letter, ``[B, cipher, plain]``, averaged over draws of rows."""
        total = sum(self.probe.scores(states(self.model, ids, generator), ids) for _ in range(draws))
        return torch.as_tensor(total) / draws

    def accuracies(self, texts: Tensor, generator: torch.Generator, draws: int = 4) -> dict[str, float]:
        """Shares of right keys of plain texts ``[B, L]`` under new keys, and of letters right with them.

        Returns:
            ``key``: of symbols, by the likeliest letter of each; ``key_one_to_one``: no letter twice; ``letters``: of the texts,
            by that; ``key_by_frequency`` and ``letters_by_frequency``: matched by how frequent they are; ``chance``.
        """
        ids, keys = cipher(texts, len(self.alphabet), generator)
        scores = self.scores(ids, generator, draws)
        likeliest = scores.argmax(dim=-1).where(occurrences(ids, len(self.alphabet)) > 0, -1)
        bijective = ciphers.one_to_one(scores, ids)
        by_frequency = ciphers.frequency_keys(ids, self.counts)
        return {
            "key": ciphers.key_accuracy(likeliest, keys),
            "key_one_to_one": ciphers.key_accuracy(bijective, keys),
            "letters": float((bijective.gather(1, ids) == texts).double().mean()),
            "key_by_frequency": ciphers.key_accuracy(by_frequency, keys),
            "letters_by_frequency": float((by_frequency.gather(1, ids) == texts).double().mean()),
            "chance": 1 / len(self.alphabet),
        }

    def decipher(self, text: str, generator: torch.Generator, draws: int = 16) -> Deciphered:
        """The key and the plain text of a ciphered one, in which any character may stand for any letter.

        Raises:
            ValueError: If it is empty, or has more different characters than the alphabet.
        """
        characters = "".join(dict.fromkeys(text))
        if not 1 <= len(characters) <= len(self.alphabet):
            raise ValueError(
                f"text must have 1 to {len(self.alphabet)} different characters, one for each letter, got {len(characters)}"
            )
        ids = torch.tensor([[characters.index(character) for character in text]])
        letters = ciphers.one_to_one(self.scores(ids, generator, draws), ids)[0]
        key = {character: self.alphabet[letters[i]] for i, character in enumerate(characters)}
        return Deciphered(key, "".join(key[character] for character in text))


def _folder(name: str | Path) -> Path:
    from tokenizers_mm import registry  # above the wings: what is found by name

    shipped = registry.data_path("checkpoints") / name
    return shipped if not Path(name).is_dir() and shipped.is_dir() else Path(name)


@torch.no_grad()
def states(model: LexinvariantLM, ids: Tensor, generator: torch.Generator) -> Tensor:
    """States ``[B, L, D]`` of ciphered texts, the one at a place knowing it, a few texts at a time, each with its rows."""
    return torch.cat([model.features(part, model.rows(len(part), generator=generator)) for part in ids.split(BATCH)])


def windows(documents: list[bytes], length: int, alphabet: str = ALPHABET) -> Tensor:
    """Stretches ``[B, L]`` of documents' letters, none overlapping another or the end of a document.

    Raises:
        ValueError: If no document is that long.
    """
    found = [
        part
        for document in documents
        for part in plain_ids(document.decode("utf-8"), alphabet).split(length)
        if len(part) == length
    ]
    if not found:
        raise ValueError(f"data must hold a document of {length} letters at least, got none")
    return torch.stack(found)
