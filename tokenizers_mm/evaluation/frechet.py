"""Frechet distance between two sets of embeddings, the last step of FAD and FID.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium" (2017); for audio
Kilgour et al., "Frechet Audio Distance" (2019). The model that makes the embeddings is the caller's.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(reference: Tensor, estimate: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance of the Gaussians fitted to two sets of embeddings.

    Args:
        reference: ``[N, D]``.
        estimate: ``[M, D]``.

    Returns:
        ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` with unbiased covariances, in float64, at least 0. It is biased upwards
        where N or M is not far above D.

    Raises:
        ValueError: If shapes do not fit, a set has fewer than two embeddings, or a value is not finite.
    """
    sets = (reference, estimate)
    if any(x.ndim != 2 for x in sets) or reference.shape[1] != estimate.shape[1] or min(map(len, sets)) < 2:
        raise ValueError(f"expected two sets [N >= 2, D], got {list(reference.shape)} and {list(estimate.shape)}")
    if not all(x.isfinite().all() for x in sets):
        raise ValueError("embeddings must be finite, got NaN or infinity")
    a, b = (x.double().cpu() for x in sets)
    difference = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    # The eigenvalues of S1 S2 are the squared singular values of A B^T with S1 = A^T A, S2 = B^T B: no matrix root, and exact
    # for singular covariances.
    a, b = ((x - x.mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (a, b))
    a, b = (torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x for x in (a, b))
    cross = torch.linalg.svdvals(a @ b.T).sum()
    return max(0.0, float(difference + a.square().sum() + b.square().sum() - 2 * cross))
