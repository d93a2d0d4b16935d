"""K-means for the codebook methods: any K from 1 to 65,536, with row weights, on CPU and CUDA.

Papers: Lloyd 1982; Arthur & Vassilvitskii 2007 (k-means++), its seeds drawn several at a time as in Bahmani et al. 2012;
Polyak 1964 (heavy ball) for the momentum of the centroids.

minimize  sum_n w_n |x_n - c_{code_n}|^2,  code_n = argmax_k  x_n . c_k - |c_k|^2 / 2.

A Lloyd step moves a centroid to the mean of its rows; with momentum it goes on in the direction of the steps before,
which reaches the error of 25 Lloyd steps in about 12 (measured on GloVe, D of 1 to 100, K of 16 to 256). The last step is
a plain one, so that centroids are means. An empty cluster gets a row drawn from those that are far from their centroid.

Shapes: N rows, D columns, K clusters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quantizers.fitting.sample import default_rows

MAX_CLUSTERS = 65_536
_COPIED = 1 << 14
_SEED_ROWS = 16  # rows a cluster among which the seeds are drawn
_SEED_GROWTH = 2  # a round of seeding adds half of what is there
_MOMENTUM = 0.8
_STEPS_1D = 200  # a step takes K binary searches, whatever N is
_SCORES_CPU = 1 << 19  # scores held at once: 2 MB stay in the cache
_SCORES_CUDA = 1 << 26


def nearest(x: Tensor, centroids: Tensor) -> Tensor:
    """The nearest centroid of every row.

    Args:
        x: (N, D) float32.
        centroids: (K, D) float32, on the same device.

    Returns:
        (N,) int64.
    """
    shift = centroids.mean(dim=0)  # keeps the scores small where the table is far from the origin
    centred = centroids - shift
    scale = power_of_two(centred)
    return _best(with_ones((x - shift).div_(scale)), _scorer(centred.div_(scale)))


def kmeans(
    x: Tensor,
    num_clusters: int,
    *,
    generator: torch.Generator,
    weights: Tensor | None = None,
    iterations: int = 12,
    max_rows: int | None = None,
    first_rows: int = 256,
    start: Tensor | None = None,
) -> Tensor:
    """Centroids of ``x``.

    Where the rows (or the drawn sample of them) hold no more than K distinct vectors, those are the centroids, the last
    one repeated.

    Args:
        x: (N, D) float32, N >= 1.
        num_clusters: K, 1 to 65,536; may be more than N.
        generator: a CPU generator; the same state gives the same centroids.
        weights: (N,) float32 not negative, not all zero: how much each row's error counts.
        iterations: steps at the most; it ends when no row changes its cluster.
        max_rows: train on a random sample of this many rows where there are more; default 65,536, or 256 a cluster.
        first_rows: rows a cluster that the first three quarters of the steps look at; the others look at all.
        start: (K, D) centroids to start from, instead of seeds.

    Returns:
        (K, D) float32.

    Raises:
        ValueError: ``num_clusters`` is out of range.
    """
    if not 1 <= num_clusters <= MAX_CLUSTERS:
        raise ValueError(f"num_clusters must be 1 to {MAX_CLUSTERS}, not {num_clusters}")
    found = _all_distinct(x, num_clusters)
    if found is not None:
        return found
    order = torch.randperm(len(x), generator=generator)[: max_rows or default_rows(num_clusters)].to(x.device)
    if weights is not None:
        weights = weights[order]
    scored = with_ones(x, order)  # the one copy of the rows
    return kmeans_in_place(
        scored,
        num_clusters,
        generator=generator,
        weights=weights,
        iterations=iterations,
        first_rows=first_rows,
        start=start,
    )


def with_ones(x: Tensor, order: Tensor | None = None) -> Tensor:
    """Rows ``order`` (n,) of x (N, D), or all, with a column of ones: (n, D + 1). One product then makes the scores."""
    if order is None:
        return torch.cat([x, torch.ones((len(x), 1), device=x.device)], dim=1)
    out = torch.ones((len(order), x.shape[1] + 1), device=x.device)
    for part, rows in zip(torch.split(out, _COPIED), torch.split(order, _COPIED), strict=True):
        part[:, :-1] = x[rows]
    return out


def kmeans_in_place(
    scored: Tensor,
    num_clusters: int,
    *,
    generator: torch.Generator,
    weights: Tensor | None = None,
    iterations: int = 12,
    first_rows: int = 256,
    start: Tensor | None = None,
) -> Tensor:
    """:func:`kmeans` of rows in random order, in the memory that they are in.

    Args:
        scored: (N, D + 1) float32, the rows with a column of ones, against which scores have -|c|^2 / 2; overwritten.
        num_clusters: K.
        generator: as there, and all that follows.
        weights: (N,).
        iterations: steps.
        first_rows: rows a cluster.
        start: (K, D).

    Returns:
        (K, D) float32.
    """
    x = scored[:, :-1]
    found = _all_distinct(x, num_clusters)
    if found is not None:
        return found
    if x.shape[1] == 1:
        return _kmeans_1d(x.flatten(), num_clusters, weights)[:, None]
    shift = x.mean(dim=0)
    x.sub_(shift)
    scale = power_of_two(x)
    x.div_(scale)
    if start is not None:
        centroids = (start - shift).div_(scale)
    else:
        # In many dimensions rows are far from every good centroid, whose norm, by rate-distortion theory, is smaller by
        # this factor; unshrunk seeds of near-Gaussian rows end in optima that are up to 3 % worse.
        shrink = math.sqrt(1 - num_clusters ** (-2 / x.shape[1]))
        centroids = shrink * _seeds(x, num_clusters, generator, weights)
    first, last = first_rows * num_clusters, max(1, iterations // 4)
    if len(x) > first:
        head = None if weights is None else weights[:first]
        centroids = _lloyd(scored[:first], centroids, iterations - last, generator, head)
        iterations = last
    return _lloyd(scored, centroids, iterations, generator, weights).mul_(scale).add_(shift)


def power_of_two(x: Tensor) -> float:
    """A power of two near the largest magnitude in ``x``: divided by it, squares neither overflow nor vanish."""
    largest = float(torch.linalg.vector_norm(x, float("inf"))) if x.numel() else 0.0
    return 2.0 ** max(-120, min(120, math.frexp(largest)[1])) if largest else 1.0


def cluster_sums(x: Tensor, codes: Tensor, num_clusters: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum of the rows of every cluster, and how much weight it has.

    Args:
        x: (N, D) float32.
        codes: (N,) int64 in [0, K).
        num_clusters: K.
        weights: (N,) float32, or None for 1 each.

    Returns:
        (K, D) and (K,) float32.
    """
    order = codes.argsort(stable=True)
    counts = torch.bincount(codes, minlength=num_clusters)
    first = counts.cumsum(0) - counts
    ordered = None if weights is None else weights[order]
    # embedding_bag adds the rows of a cluster where they lie: 3 to 10 times faster than index_add_, and repeatable on CUDA.
    sums = torch.nn.functional.embedding_bag(order, x, first, mode="sum", per_sample_weights=ordered)
    if weights is None:
        return sums, counts.to(x.dtype)
    return sums, torch.bincount(codes, weights=weights, minlength=num_clusters).to(x.dtype)


def _scorer(centroids: Tensor) -> Tensor:
    return torch.cat([centroids.T, -0.5 * (centroids * centroids).sum(dim=1)[None]])


def _best(x: Tensor, scorer: Tensor) -> Tensor:
    """Argmax over k of x @ scorer: (N, D + 1), (D + 1, K) -> (N,)."""
    num_rows, num_clusters = len(x), scorer.shape[1]
    held = _SCORES_CPU if x.device.type == "cpu" else _SCORES_CUDA
    step = max(1, min(num_rows, max(64, held // num_clusters)))
    codes = torch.empty(num_rows, dtype=torch.int64, device=x.device)
    scores = torch.empty((step, num_clusters), device=x.device)
    for start in range(0, num_rows, step):
        part = x[start : start + step]
        out = torch.mm(part, scorer, out=scores[: len(part)])
        # NumPy's argmax is several times faster than torch's on the CPU.
        found = torch.from_numpy(out.numpy().argmax(axis=1)) if out.device.type == "cpu" else out.argmax(dim=1)
        codes[start : start + step] = found
    return codes


def _lloyd(scored: Tensor, centroids: Tensor, iterations: int, generator: torch.Generator, weights: Tensor | None) -> Tensor:
    """Steps from ``centroids`` (K, D) on, for rows with a column of ones (N, D + 1)."""
    x = scored[:, :-1]
    velocity = torch.zeros_like(centroids)
    previous: Tensor | None = None
    for iteration in range(iterations):
        codes = _best(scored, _scorer(centroids))
        sums, totals = cluster_sums(scored, codes, len(centroids), weights)  # x is not in one piece, and would be copied
        means = torch.where(totals[:, None] > 0, sums[:, :-1] / totals.clamp_min(1e-30)[:, None], centroids)
        empty = torch.nonzero(totals == 0).flatten()
        if len(empty):
            error = (x - means[codes]).square().sum(dim=1)
            means[empty] = x[_draw(error if weights is None else error * weights, len(empty), generator)]
        settled = previous is not None and torch.equal(codes, previous)
        if iteration == iterations - 1 or (settled and torch.equal(centroids, means)):
            return means
        previous = codes
        # The first steps are long and rough: momentum pays later, and grows up to the sixth. Once no row moves, a step
        # without it shows whether that was the end.
        momentum = 0.0 if settled else _MOMENTUM * min(1.0, max(0, iteration - 1) / 4)
        velocity = (means - centroids) + momentum * velocity
        velocity[empty] = 0.0
        centroids = means if settled else centroids + velocity
        centroids[empty] = means[empty]
    return centroids


def _kmeans_1d(x: Tensor, num_clusters: int, weights: Tensor | None) -> Tensor:
    """Lloyd's algorithm on a line, where clusters are intervals of the sorted values: (N,) -> (K,) ascending."""
    values, order = x.to(torch.float64).sort()
    weight = torch.ones_like(values) if weights is None else weights.to(torch.float64)[order]
    mass = torch.nn.functional.pad(weight.cumsum(0), (1, 0))
    moment = torch.nn.functional.pad((weight * values).cumsum(0), (1, 0))
    # The best density of levels goes with the cube root of the values' density (Panter & Dite 1951). In bins of equal
    # mass and width d the values' density is 1 / d, so that a bin gets levels in proportion to d**(2/3).
    edges = torch.searchsorted(
        mass, mass[-1] * torch.linspace(0, 1, 2 * num_clusters + 1, dtype=mass.dtype, device=x.device)
    )
    bounds = values[edges.clamp_max(len(values) - 1)]
    level_mass = torch.nn.functional.pad(bounds.diff().pow(2 / 3).cumsum(0), (1, 0))
    places = level_mass[-1] * (torch.arange(num_clusters, dtype=mass.dtype, device=x.device) + 0.5) / num_clusters
    right = torch.searchsorted(level_mass, places).clamp(1, len(bounds) - 1)
    share = (places - level_mass[right - 1]) / (level_mass[right] - level_mass[right - 1]).clamp_min(1e-300)
    levels = bounds[right - 1] + share.clamp(0, 1) * (bounds[right] - bounds[right - 1])
    ends = torch.tensor([0, len(values)], device=x.device)
    for _ in range(_STEPS_1D):
        inner = torch.searchsorted(values, (levels[1:] + levels[:-1]) / 2)
        cuts = torch.cat([ends[:1], inner, ends[1:]])
        total = mass[cuts].diff()
        means = torch.where(total > 0, moment[cuts].diff() / total.clamp_min(1e-300), levels)
        if torch.equal(means, levels):
            break
        levels = means
    return levels.to(torch.float32)


def _seeds(x: Tensor, num_clusters: int, generator: torch.Generator, weights: Tensor | None) -> Tensor:
    """Rows far apart: each is drawn with probability in proportion to its squared distance from those drawn before."""
    x = x[: _SEED_ROWS * num_clusters]  # the rows come in random order
    ones = torch.ones(len(x), device=x.device)
    weight = ones if weights is None else weights[: len(x)]
    seeds = x[_draw(weight, 1, generator)]
    new = seeds
    error = torch.full_like(ones, float("inf"))
    while len(seeds) < num_clusters:
        error = torch.minimum(error, (x - new[nearest(x, new)]).square().sum(dim=1))
        count = min(num_clusters - len(seeds), max(1, len(seeds) // _SEED_GROWTH))
        new = x[_draw(error * weight, count, generator)]
        seeds = torch.cat([seeds, new])
    return seeds


def _draw(probability: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` different rows, drawn in proportion to ``probability`` (N,), of any scale; zeros come last."""
    # Exponential races (Efraimidis & Spirakis 2006): unlike torch.multinomial they have no limit on N and take zeros.
    wait = torch.empty(len(probability)).exponential_(generator=generator).to(probability.device)
    return torch.topk(wait / probability, count, largest=False).indices


def _distinct_rows(x: Tensor, limit: int) -> Tensor | None:
    """The distinct rows of ``x`` in order of first appearance where there are at most ``limit``, else None."""
    head = x[: 4 * limit + 64]
    if len(head) < len(x) and len(torch.unique(_row_hash(head))) > limit:
        return None  # the usual case, found without a look at the whole table
    _, group = torch.unique(_row_hash(x), return_inverse=True)
    count = int(group.max()) + 1
    if count > limit:
        return None
    rows = torch.arange(len(x), device=x.device)
    first = torch.full((count,), len(x), device=x.device).scatter_reduce_(0, group, rows, "amin")
    return x[first.sort().values]


def _all_distinct(x: Tensor, num_clusters: int) -> Tensor | None:
    """Where ``x`` has no more than K distinct rows, these, the last one repeated: (K, D)."""
    distinct = _distinct_rows(x, num_clusters)
    return None if distinct is None else torch.cat([distinct, distinct[-1:].expand(num_clusters - len(distinct), -1)])


def _row_hash(x: Tensor) -> Tensor:
    """A 64-bit hash of each row's bits: (N, D) float32 -> (N,) int64."""
    generator = torch.Generator().manual_seed(20_240)
    factors = torch.randint(-(1 << 62), 1 << 62, (x.shape[1],), generator=generator).to(x.device) | 1
    parts = [((part + 0.0).view(torch.int32).to(torch.int64) * factors).sum(dim=1) for part in torch.split(x, 1 << 14)]
    return torch.cat(parts)
