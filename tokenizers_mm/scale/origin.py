"""Origin: whose tokens a shard holds, as its metadata say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers_mm.tokens import TokenSpec

VERSION = 1


class ShardError(ValueError):
    """A file that is no intact shard, or one of another codec's tokens; the message names it."""


@dataclass(frozen=True)
class Origin:
    """Whose tokens a shard holds.

    Args:
        codec: Name of the codec: a card's, or what :func:`tokenizers_mm.transcode.writer_name` makes of a folder.
        spec: What the tokens are.
        weights: Fingerprint of the codec's configuration and weights; None where it is not known.
    """

    codec: str
    spec: TokenSpec
    weights: str | None = None

    def to_json(self) -> str:
        """For the metadata of a file."""
        from tokenizers_mm import __version__

        facts = {"version": VERSION, "codec": self.codec, "weights": self.weights, "spec": self.spec.to_dict()}
        return json.dumps({**facts, "fingerprint": self.spec.fingerprint, "writer": f"tokenizers_mm {__version__}"})

    @classmethod
    def from_json(cls, text: bytes | str) -> Origin:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: If it is none, damaged, or of a later version.
        """
        facts = json.loads(text)
        if not isinstance(facts, dict) or facts.get("version") != VERSION:
            raise ValueError(f"this release reads version {VERSION} of shards")
        if missing := {"codec", "weights", "spec", "fingerprint"} - set(facts):
            raise ValueError(f"its metadata lack {', '.join(sorted(missing))}")
        spec = TokenSpec.from_dict(facts["spec"])
        if spec.fingerprint != facts["fingerprint"]:
            raise ValueError(f"its spec has fingerprint {spec.fingerprint}, not {facts['fingerprint']} as it says")
        return cls(facts["codec"], spec, facts["weights"])

    def check(self, wanted: Origin, path: Path) -> None:
        """Refuse tokens of another codec than ``wanted``.

        Raises:
            ShardError: If spec or weights differ.
        """
        if self.spec != wanted.spec:
            mine, other = self.spec.fingerprint, wanted.spec.fingerprint
            raise ShardError(
                f"{path} holds tokens of {self.codec!r} with spec {mine}, wanted {wanted.codec!r} with {other}"
            )
        if None not in (self.weights, wanted.weights) and self.weights != wanted.weights:
            raise ShardError(
                f"{path} holds tokens of {self.codec!r} with other weights or configuration ({self.weights}) "
                f"than {wanted.codec!r} ({wanted.weights}): their ids mean different things"
            )
