#!/usr/bin/env python3
"""Scalar K-Means compared with other libraries: time, and within-cluster sum of squares as excess over the optimum.

    pip install scikit-learn faiss-cpu kmeans1d
    OMP_NUM_THREADS=1 python benchmarks/kmeans.py
    OMP_NUM_THREADS=1 python benchmarks/kmeans.py --sizes 2048,16 --repeat 50

Normal data with the standard deviation of a prompt, float32, one thread. The methods take turns; a turn is several
calls if n is small. scikit-learn starts once from k-means++ or from quantiles; scipy is kmeans2 with k-means++; faiss
runs with its defaults (it samples 256 values per centroid) and with all values. kmeans1d is exact (SMAWK, C++), so its
sum is the reference up to n = --exact-up-to; above that, the reference is the best sum found.
"""

import argparse
import importlib
import platform

import numpy as np
import torch
from measure import save, side_by_side

from qprompt.quantization.kmeans import kmeans

SAMPLES = (4_096, 16_384, 65_536, 262_144)  # the curve of time against error
SIZES = ((2048, 2), (2048, 16), (393216, 16), (3548160, 16))


def methods(x, k, exact):
    """Return {name: function that returns the centroids} of the installed libraries."""
    values = x.numpy()
    column = values[:, None]
    calls = {"qprompt": lambda: kmeans(x, k).numpy()}
    samples = [size for size in SAMPLES if len(x) > 4 * size]
    for size in samples:
        calls[f"qprompt, {size:,} values"] = lambda size=size: kmeans(x, k, sample=size).numpy()
    if (sk := library("sklearn.cluster")) is not None:
        quantiles = np.quantile(values, (np.arange(k) + 0.5) / k)[:, None].astype(np.float32)

        def sklearn(init):
            return sk.KMeans(k, init=init, n_init=1, random_state=0).fit(column).cluster_centers_[:, 0]

        calls["scikit-learn"] = lambda: sklearn("k-means++")
        calls["scikit-learn, quantiles"] = lambda: sklearn(quantiles)
    if (vq := library("scipy.cluster.vq")) is not None:
        calls["scipy"] = lambda: vq.kmeans2(values, k, seed=0, minit="++")[0]
    if (faiss := library("faiss")) is not None:
        faiss.omp_set_num_threads(1)

        def with_faiss(**options):
            clustering = faiss.Kmeans(1, k, seed=0, **options)
            clustering.train(column)
            return clustering.centroids[:, 0]

        calls["faiss, 256 values a centroid"] = with_faiss
        for size in samples:
            calls[f"faiss, {size:,} values"] = lambda size=size: with_faiss(max_points_per_centroid=size // k)
        calls["faiss, all values"] = lambda: with_faiss(max_points_per_centroid=len(values))
    if exact and (one := library("kmeans1d")) is not None:
        calls["kmeans1d"] = lambda: np.array(one.cluster(values, k).centroids)
    return calls


def library(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"{name} is not installed and not measured")
        return None


def repeated(call, times):
    """Return a function that calls `call` several times: a single short call would measure cold caches."""

    def calls():
        for _ in range(times):
            call()

    return calls


def sum_of_squares(values, centroids):
    centroids = np.sort(np.asarray(centroids, dtype=np.float64))
    nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
    return float(np.square(values - centroids[nearest]).sum())


def versions():
    found = {"numpy": np.__version__}
    for name in ("sklearn", "scipy", "faiss"):
        module = library(name)
        found[name] = getattr(module, "__version__", None)
    return found | {"platform": platform.platform()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", metavar="N,K", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--repeat", type=int, default=0, help="default: more for small n")
    parser.add_argument("--exact-up-to", type=int, default=4_000_000, metavar="N", help="run kmeans1d for n up to this")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for n, k in args.sizes or SIZES:
        x = torch.randn(n, generator=torch.Generator().manual_seed(0)) * 0.02
        calls = methods(x, k, n <= args.exact_up_to)
        repeat, at_once = args.repeat or (3 if n > 10**6 else 9), max(1, 100_000 // n)
        timed = side_by_side({name: repeated(call, at_once) for name, call in calls.items()}, repeat)
        timed = {name: tuple(seconds / at_once for seconds in s) for name, s in timed.items()}
        sums = {name: sum_of_squares(x.double().numpy(), call()) for name, call in calls.items()}
        best = sums.get("kmeans1d", min(sums.values()))
        against = "the optimum" if "kmeans1d" in sums else "the best of these"
        print(f"\nn = {n:,}, k = {k}: {repeat} turns of {at_once} calls; sum of squares relative to {against}")
        for name, (median, fastest, _) in sorted(timed.items(), key=lambda item: item[1][0]):
            excess = sums[name] / best - 1
            print(f"  {name:28} {median * 1e3:10.3f} ms (fastest {fastest * 1e3:10.3f})  {excess:+9.4%}")
            row = {
                "n": n,
                "k": k,
                "method": name,
                "median_s": median,
                "fastest_s": fastest,
                "turns": repeat,
                "calls_a_turn": at_once,
            }
            rows.append(row | {"sum_of_squares": sums[name], "excess": excess})
    save("kmeans", rows, versions=versions())


if __name__ == "__main__":
    main()
