"""STFT heads against torch's own transforms, exact lengths, frame-by-frame synthesis."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tokenizers_mm.nn.convnext import AdaLayerNorm, ConvNeXtBackbone
from tokenizers_mm.nn.spectral import ISTFTHead, STFTFeatures

N_FFT, HOP = 64, 16


def spectrum_head() -> ISTFTHead:
    """A head that takes log magnitude and phase as they are."""
    head = ISTFTHead(N_FFT + 2, N_FFT, HOP)
    with torch.no_grad():
        head.out.weight.copy_(torch.eye(N_FFT + 2))
        head.out.bias.zero_()
    return head


def test_features_are_those_of_torch_stft() -> None:
    x = torch.randn(2, 1, 10 * HOP)
    features = STFTFeatures(N_FFT, HOP)(x)
    padded = nn.functional.pad(x[:, 0], (24, 24))
    reference = torch.stft(padded, N_FFT, HOP, window=torch.hann_window(N_FFT), center=False, return_complex=True)
    magnitude, cosine, sine = features.chunk(3, dim=1)
    torch.testing.assert_close((4 * magnitude - 7).exp() * N_FFT / 2, reference.abs(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.atan2(sine, cosine), reference.angle(), atol=1e-3, rtol=1e-3)


@given(n=st.integers(1, 300), causal=st.booleans())
@settings(deadline=None)
def test_features_have_one_frame_per_hop_and_stay_finite_on_silence(n: int, causal: bool) -> None:
    features = STFTFeatures(N_FFT, HOP, causal=causal)(torch.zeros(1, 1, n))
    assert features.shape[-1] == -(-n // HOP)
    assert torch.isfinite(features).all()


def test_synthesis_inverts_analysis() -> None:
    x = torch.randn(2, 12 * HOP)
    padded = nn.functional.pad(x, (24, 24))
    spectrum = torch.stft(padded, N_FFT, HOP, window=torch.hann_window(N_FFT), center=False, return_complex=True)
    features = torch.cat([spectrum.abs().clamp(min=1e-9).log(), spectrum.angle()], dim=1).mT
    wave = spectrum_head()(features)
    assert wave.shape == (2, 1, 12 * HOP)
    torch.testing.assert_close(wave[:, 0], x, atol=1e-4, rtol=1e-4)


def test_magnitudes_are_clipped() -> None:
    features = torch.zeros(1, 4, N_FFT + 2)
    features[..., : N_FFT // 2 + 1] = 50
    assert torch.isfinite(spectrum_head()(features)).all()


@settings(deadline=None, max_examples=40)
@given(pieces=st.lists(st.integers(0, 5), min_size=1, max_size=8).filter(lambda p: sum(p) > 0))
def test_frames_in_pieces_give_the_whole(pieces: list[int]) -> None:
    head = ISTFTHead(8, N_FFT, HOP).eval()
    features = torch.randn(2, sum(pieces), 8)
    state: dict = {}
    with torch.no_grad():
        out = [head.step(part, state, last=False) for part in features.split(pieces, dim=1)]
        held_back = sum(part.shape[-1] for part in out)
        out.append(head.step(features[:, :0], state, last=True))
        whole = head(features)
    assert held_back == max(0, sum(pieces) * HOP - head.trim)
    torch.testing.assert_close(torch.cat(out, dim=-1), whole, atol=1e-5, rtol=1e-4)


def test_odd_overlap_is_refused() -> None:
    with pytest.raises(ValueError, match="even number"):
        ISTFTHead(8, 63, 16)
    with pytest.raises(ValueError, match="even number"):
        STFTFeatures(8, 16)


def test_adaptive_norm_starts_as_a_plain_one_and_tells_items_apart() -> None:
    norm = AdaLayerNorm(3, 8)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(norm(x, torch.tensor([0, 2])), nn.functional.layer_norm(x, (8,), eps=1e-6))
    nn.init.normal_(norm.shift.weight)
    mixed = norm(x, torch.tensor([0, 2]))
    torch.testing.assert_close(mixed[1:], norm(x[1:], torch.tensor([2])))
    assert not torch.allclose(mixed[0], norm(x[:1], torch.tensor([2]))[0])


def test_backbone_initialisation_is_the_published_one() -> None:
    backbone = ConvNeXtBackbone(8, 32, 64, 4, num_embeddings=2, attention=True)
    assert all(torch.equal(block.gamma, torch.full((32,), 0.25)) for block in backbone.convnext)
    assert 0.015 < float(backbone.convnext[0].pwconv1.weight.detach().std()) < 0.025
    assert not backbone.convnext[0].pwconv1.bias.any()
    assert backbone.front.layers[0].conv1.conv.bias.any()  # the front keeps PyTorch's own start
