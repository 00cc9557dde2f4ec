"""Peers of the benchmarks: the same ids with the same weights, and back to the same values."""

from __future__ import annotations

import pytest
import torch

from tokenizers_mm import registry
from tokenizers_mm.evaluation.contender import codec_contender
from tokenizers_mm.timeseries.peers import PEERS


@pytest.mark.parametrize(("name", "peer"), [("chronos-bins", "chronos-forecasting"), ("totem-4", "totem-published")])
def test_peers_give_the_ids_and_values_of_the_codecs(name: str, peer: str) -> None:
    if reason := PEERS[peer].unavailable():
        pytest.skip(reason)
    torch.manual_seed(0)
    ours, theirs = codec_contender(registry.get_card(name)), PEERS[peer].build()
    theirs.adopt(ours.module)
    x = ours.noise(1, [96 * 50])
    with torch.no_grad():
        tokens, codes = ours.encode(x), theirs.encode(x)
        assert torch.equal(tokens.ids.flatten(1), theirs.ids(codes))
        torch.testing.assert_close(ours.decode(tokens), theirs.decode(codes))
