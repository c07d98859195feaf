"""Statistics of paired differences: mean, interval, test, and the number of pairs that a test needs."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

POWER, ALPHA = 0.8, 0.05
FEWEST = 6  # with fewer pairs no two-sided signed-rank test reaches p < 0.05, and a bootstrap interval is meaningless
MOST = 10_000


@dataclass(frozen=True)
class Paired:
    """Statistics of the differences of n pairs, second minus first, in percentage points."""

    n: int
    mean: float
    std: float | None
    wins: int  # pairs in which the second is better
    low: float | None  # 95% bootstrap interval of the mean; None below FEWEST pairs
    high: float | None
    p: float | None  # Wilcoxon signed-rank, two-sided
    needed: int | None  # pairs for 80% power at p < 0.05, if the true effect is the observed one; None: over MOST


def paired(differences: Sequence[float], independent: bool = True) -> Paired:
    """Return the statistics of differences.

    Args:
        differences: at least one.
        independent: whether the pairs are independent samples of what is claimed. Seeds of one data set are not
            independent data sets: without independence there is no interval, no p and no number of pairs.
    """
    # 0.1 + 0.2 - 0.3 is a tie, not a difference
    values = [round(d, 9) for d in differences]
    mean = statistics.fmean(values)
    std = statistics.stdev(values) if len(values) > 1 else None
    wins = sum(v > 0 for v in values)
    if not independent:
        return Paired(len(values), mean, std, wins, None, None, None, None)
    low, high = bootstrap_interval(values) if len(values) >= FEWEST else (None, None)
    return Paired(len(values), mean, std, wins, low, high, wilcoxon_p(values), pairs_needed(mean, std))


def wilcoxon_p(differences: Sequence[float]) -> float | None:
    """Return the two-sided p of Wilcoxon's signed-rank test: exact, also with ties, and without zeros.

    SciPy's is exact only without ties, and its choice of an approximation differs between versions.

    Args:
        differences: of the pairs; zeros are dropped.

    Returns:
        1 if all differences are zero; None for fewer than two pairs.
    """
    import numpy as np
    from scipy import stats

    if len(differences) < 2:
        return None
    values = np.array([d for d in differences if d])
    ranks = (2 * stats.rankdata(np.abs(values))).astype(int)  # doubled: ties have half ranks
    # Under the null hypothesis each sign is + or - with probability 1/2: the distribution of the sum of + ranks.
    chances = np.zeros(ranks.sum() + 1)
    chances[0] = 1.0
    for rank in ranks:
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[: len(chances) - rank]
        chances = (chances + shifted) / 2
    observed = int(ranks[values > 0].sum())
    lower, upper = chances[: observed + 1].sum(), chances[observed:].sum()
    return float(min(1.0, 2 * min(lower, upper)))


def bootstrap_interval(differences: Sequence[float], resamples: int = 9999) -> tuple[float, float]:
    """Return the 95% interval of the mean: BCa bootstrap (bias-corrected, accelerated) with fixed random numbers."""
    import numpy as np
    from scipy import stats

    if len(set(differences)) == 1:
        return differences[0], differences[0]
    found = stats.bootstrap(
        (np.asarray(differences),), np.mean, n_resamples=resamples, random_state=np.random.default_rng(0)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def pairs_needed(mean: float, std: float | None) -> int | None:
    """Return the number of pairs for which a two-sided test at p < 0.05 detects this effect with 80% probability.

    The power is that of the t test (noncentral t distribution); the signed-rank test has an efficiency of 3 / pi
    relative to it. None for more than 10,000 pairs or an unknown spread.
    """
    from scipy import stats

    if std is None or mean == 0:
        return None
    if std == 0:
        return FEWEST

    def power(n: int) -> float:
        critical = stats.t.ppf(1 - ALPHA / 2, n - 1)
        return float(stats.nct.sf(critical, n - 1, math.sqrt(n) * abs(mean) / std))

    low, high = 2, 2
    while power(high) < POWER:
        if high >= MOST:
            return None
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    needed = max(FEWEST, math.ceil(high * math.pi / 3))
    return needed if needed <= MOST else None
