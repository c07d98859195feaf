#!/usr/bin/env python3
"""Scalar K-Means compared with other libraries: time, and within-cluster sum of squares as excess over the optimum.

    pip install scikit-learn scipy faiss-cpu kmeans1d
    OMP_NUM_THREADS=1 python benchmarks/kmeans.py            # then plot_performance.py: table and picture
    OMP_NUM_THREADS=1 python benchmarks/kmeans.py --sizes 2048,16 --turns 50

Normal data with the standard deviation of a prompt, float32, one thread. All methods take turns in one process; a turn
is several calls if n is small. Each turn gives the libraries that start at random another seed: the excess is the
median over the turns, as the time is. Samples, batches and iterations vary, for the curve of time against error:

- qprompt fits all values, or `sample` of them;
- faiss samples 256 values per centroid and makes 25 iterations by default; here also other samples, iterations
  (niter) and restarts (nredo);
- scikit-learn starts KMeans once or ten times from k-means++, or once from quantiles; MiniBatchKMeans goes once over
  the values (its default of 100 passes takes minutes here), with the default batches of 1,024 values or larger ones;
- scipy is kmeans2 with k-means++;
- kmeans1d is exact (SMAWK, C++): its sum is the optimum. A call of more than 3 s is not repeated.

A library that is not installed is named and left out; without kmeans1d the reference is the best sum found.
"""

import argparse
import importlib
import importlib.metadata
import platform
import statistics

import numpy as np
import torch
from measure import clock, save

from qprompt.quantization.kmeans import kmeans, spread

SIZES = ((2048, 2), (2048, 16), (393216, 16), (3548160, 2), (3548160, 16))
SAMPLES = (512, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576)
SLOW = 3.0  # seconds
PACKAGES = ("numpy", "scikit-learn", "scipy", "faiss-cpu", "kmeans1d")


def methods(x, k):
    """Return {(library, settings): function of a seed that returns the centroids} of the installed libraries."""
    values = x.numpy()
    column = values[:, None]
    samples = [size for size in SAMPLES if 64 * k <= size <= len(x) // 2]
    calls = {("qprompt", "all values"): lambda seed: kmeans(x, k).numpy()}
    for size in samples:
        calls["qprompt", f"{size:,} values"] = lambda seed, size=size: kmeans(x, k, sample=size).numpy()
    if (sk := library("sklearn.cluster")) is not None:

        def sklearn(seed, data=column, init="k-means++", n_init=1):
            return sk.KMeans(k, init=init, n_init=n_init, random_state=seed).fit(data).cluster_centers_[:, 0]

        def minibatch(seed, size):
            clustering = sk.MiniBatchKMeans(k, batch_size=size, max_iter=1, n_init=1, random_state=seed)
            return clustering.fit(column).cluster_centers_[:, 0]

        quantiles = np.quantile(values, (np.arange(k) + 0.5) / k)[:, None].astype(np.float32)
        calls["scikit-learn", "all values"] = sklearn
        calls["scikit-learn", "all values, from quantiles"] = lambda seed: sklearn(seed, init=quantiles)
        for size in (size for size in samples if size in (4_096, 65_536)):
            part = spread(len(x), size).numpy()
            calls["scikit-learn", f"{size:,} values"] = lambda seed, part=part: sklearn(seed, column[part])
            calls["scikit-learn", f"{size:,} values, 10 starts"] = lambda seed, part=part: sklearn(
                seed, column[part], n_init=10
            )
        for size in (size for size in (1_024, 16_384) if len(x) < 500 * size):
            calls["MiniBatchKMeans", f"batches of {size:,}"] = lambda seed, size=size: minibatch(seed, size)
    if (vq := library("scipy.cluster.vq")) is not None:
        calls["scipy", "all values"] = lambda seed: vq.kmeans2(values, k, rng=seed, minit="++")[0]
    if (faiss := library("faiss")) is not None:
        faiss.omp_set_num_threads(1)

        def with_faiss(seed, size=256 * k, **options):
            clustering = faiss.Kmeans(1, k, seed=seed, max_points_per_centroid=size // k, **options)
            clustering.train(column)
            return clustering.centroids[:, 0]

        calls["faiss", f"{256 * k:,} values (default)"] = with_faiss
        for size in (size for size in samples if size != 256 * k):
            calls["faiss", f"{size:,} values"] = lambda seed, size=size: with_faiss(seed, size)
        calls["faiss", "all values"] = lambda seed: with_faiss(seed, len(values))
        size = min(65_536, len(values))
        for iterations in (5, 100):
            calls["faiss", f"{size:,} values, niter {iterations}"] = lambda seed, iterations=iterations: with_faiss(
                seed, size, niter=iterations
            )
        calls["faiss", f"{size:,} values, nredo 10"] = lambda seed: with_faiss(seed, size, nredo=10)
    if (one := library("kmeans1d")) is not None:
        calls["kmeans1d", "all values"] = lambda seed: np.array(one.cluster(values, k).centroids)
    return calls


def library(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name} is not installed and not measured")
        return None


def sum_of_squares(values, centroids):
    centroids = np.sort(np.asarray(centroids, dtype=np.float64))
    nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
    return float(np.square(values - centroids[nearest]).sum())


def measure(x, k, turns, at_once):
    """Return a row per method: seconds per call and sum of squares of each turn."""
    exact, rows = x.double().numpy(), {}
    calls = methods(x, k)
    for turn in range(turns):
        for name, call in calls.items():
            row = rows.setdefault(name, {"seconds": [], "sums": []})
            if row["seconds"] and max(row["seconds"]) > SLOW:
                continue
            start = clock()
            for _ in range(at_once):
                centroids = call(turn)
            row["seconds"].append((clock() - start) / at_once)
            row["sums"].append(sum_of_squares(exact, centroids))
    return rows


def versions():
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found | {"platform": platform.platform()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", metavar="N,K", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--turns", type=int, default=0, help="default: 9, or 3 for more than 100,000 values")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for n, k in args.sizes or SIZES:
        x = torch.randn(n, generator=torch.Generator().manual_seed(0)) * 0.02
        turns, at_once = args.turns or (3 if n > 10**5 else 9), max(1, 40_000 // n)
        found = measure(x, k, turns, at_once)
        ours = statistics.median(found["qprompt", "all values"]["seconds"])
        exact = ("kmeans1d", "all values")
        best = min(min(row["sums"]) for name, row in found.items() if name == exact or exact not in found)
        reference = "the optimum" if exact in found else "the best of these"
        print(f"\n{n:,} values, {k} levels, {turns} turns of {at_once} calls. qprompt, all values: {ours * 1e3:.3g} ms")
        print(f"Time relative to that, excess of the sum of squares over {reference}: median and worst")
        for name, row in sorted(found.items(), key=lambda item: statistics.median(item[1]["seconds"])):
            seconds, excess = row["seconds"], [value / best - 1 for value in row["sums"]]
            case = {"n": n, "k": k, "library": name[0], "settings": name[1], "turns": len(seconds)}
            case |= {"median_s": statistics.median(seconds), "fastest_s": min(seconds), "slowest_s": max(seconds)}
            case |= {"relative_time": case["median_s"] / ours, "calls_a_turn": at_once}
            case |= {"excess": statistics.median(excess), "worst_excess": max(excess)}
            rows.append(case)
            print(f"  {' '.join(name):45} {case['relative_time']:9.2f}x  {case['excess']:+9.4%} {max(excess):+9.4%}")
    save("kmeans", rows, versions=versions())


if __name__ == "__main__":
    main()
