"""A collective timed on a modelled cluster: no data, a virtual clock for each rank, all ranks at once.

A message begins when both its ranks are there, and takes alpha + bytes beta of the link between them. A rank goes on to
its next exchange when what it sends and what it receives has arrived and is added. So a slow link delays whoever waits
for it, exchange by exchange; with one kind of link the closed forms come out, exactly.
"""

from collections.abc import Callable, Iterator

import numpy as np

from zerosim.cluster import Cluster
from zerosim.collectives.exchange import NOBODY, Exchange, as_slices


def seconds(
    exchanges: Iterator[Exchange],
    N: int,
    cluster: Cluster,
    nbytes: np.ndarray,
    progress: Callable[[int], None] = lambda exchange: None,
) -> np.ndarray:
    """Return the time until the last of N ranks is done, for each size of the whole vector in `nbytes`.

    `exchanges` are those of all ranks at once (`collectives.check.all_ranks`). A slice has `nbytes` / N bytes, which
    need not be whole: it is a model. `progress` is called with the number of each exchange.
    """
    slice_bytes = np.atleast_1d(np.asarray(nbytes, float)) / N
    gamma = 1 / cluster.bandwidth_sum
    now = np.zeros((1, slice_bytes.size))  # one row for all ranks, as long as all do alike
    links = _Links(N, cluster)
    for number, exchange in enumerate(exchanges):
        progress(number)
        to, source = np.broadcast_to(exchange.to, N), np.broadcast_to(exchange.source, N)
        count = as_slices(exchange.recv).count
        alpha, beta, everyone, alike = links.of(to, source)
        plain = np.ndim(count) == 0 and isinstance(exchange.reduce, bool)
        if plain and alike and len(now) == 1:
            received = count * slice_bytes
            now = now + alpha[0] + beta[0] * received + (gamma * received if exchange.reduce else 0.0)
            continue
        now = np.repeat(now, N, axis=0) if len(now) == 1 else now
        received = count * slice_bytes if plain else np.broadcast_to(count, N)[:, None] * slice_bytes
        arrives = np.maximum(now, now[source])
        arrives += alpha + beta * received
        if plain and everyone:
            now = np.maximum(arrives, arrives[to])
            if exchange.reduce:
                now += gamma * received
            continue
        receives, sends = (source != NOBODY)[:, None], (to != NOBODY)[:, None]
        adds = receives & np.broadcast_to(exchange.reduce, N)[:, None]
        now = np.maximum(np.where(receives, arrives, now), np.where(sends, arrives[to], now))
        now += np.where(adds, gamma * received, 0.0)
    return now.max(axis=0)


class _Links:
    """alpha and beta of what each rank receives; worked out again only when the partners change."""

    def __init__(self, N: int, cluster: Cluster) -> None:
        self._cluster = cluster
        self._node = np.arange(N) // cluster.ranks_per_node
        self._partners: tuple[np.ndarray, np.ndarray] | None = None
        self._answer: tuple[np.ndarray, np.ndarray, bool, bool] | None = None

    def of(self, to: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool, bool]:
        """Return alpha and beta, a row per rank; whether every rank sends and receives; whether all do alike."""
        before = self._partners
        if self._answer is None or before is None or not (to == before[0]).all() or not (source == before[1]).all():
            self._partners = to.copy(), source.copy()
            alpha, beta = self._work_out(source)
            everyone = bool((to != NOBODY).all() and (source != NOBODY).all())
            alike = bool(everyone and (alpha == alpha[0]).all() and (beta == beta[0]).all())
            self._answer = alpha, beta, everyone, alike
        return self._answer

    def _work_out(self, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cluster, node = self._cluster, self._node
        crosses = (source != NOBODY) & (node[source] != node)
        nodes = int(node[-1]) + 1
        out = np.bincount(node[source][crosses], minlength=nodes)
        into = np.bincount(node[crosses], minlength=nodes)
        crowd = np.maximum(out[node[source]], into[node]) / cluster.links
        alpha = np.where(crosses, cluster.alpha_between, cluster.alpha_inside)
        beta = np.where(crosses, np.maximum(1.0, crowd) / cluster.bandwidth_between, 1 / cluster.bandwidth_inside)
        return alpha[:, None], beta[:, None]
