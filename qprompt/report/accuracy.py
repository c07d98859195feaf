"""The accuracy tables: base-to-new, few-shot and transfer."""

from collections.abc import Callable, Sequence

from qprompt.report.scores import Score, base_to_new, by_method, few_shot, harmonic, transfer
from qprompt.report.tables import Column, Stat, Table

SPREAD = "+- is the standard deviation (n - 1) over runs"


def accuracy_tables(scores: Sequence[Score]) -> list[Table]:
    """Return the tables for which there are scores."""
    tables = []
    if found := base_to_new(scores):
        tables.append(base_new_table(found))
    if found := few_shot(scores):
        tables.append(few_shot_table(found))
    if found := transfer(scores):
        tables.append(transfer_table(found))
    return tables


def unique(values) -> list:
    """Return the distinct values in order of appearance."""
    return list(dict.fromkeys(values))


def shots_text(shots: int) -> str:
    """Return "1 shot", "16 shots", or "all images" for a negative number (as in Dassl)."""
    return "1 shot" if shots == 1 else "all images" if shots < 0 else f"{shots} shots"


def method_names(scores: Sequence[Score]) -> Callable[[str, int], str]:
    """Return a function that names a (method, shots): with the shots if the scores have several numbers of shots."""
    several = len({s.shots for s in scores if s.shots}) > 1
    return lambda method, shots: f"{method}, {shots_text(shots)}" if several and shots else method


def dataset_name(scores: Sequence[Score], dataset: str) -> str:
    """Return the name of a data set, with the number of draws if there are several."""
    draws = len({s.draw for s in scores if s.dataset == dataset})
    return f"{dataset} ({draws} draws)" if draws > 1 else dataset


def complete(scores: Sequence[Score]) -> list[Score]:
    """Return the scores with both base and new; all scores if none has both."""
    return [s for s in scores if s.h is not None] or list(scores)


def base_new_h(scores: Sequence[Score]) -> list[Stat | None]:
    """Return base, new and H over seeds and draws of one method on one data set.

    H is the harmonic mean of the averaged base and new. Its spread is that of the H of single runs.
    """
    scores = complete(scores)
    base = Stat.of(s.accuracy["base"] for s in scores if "base" in s.accuracy)
    new = Stat.of(s.accuracy["new"] for s in scores if "new" in s.accuracy)
    each = Stat.of(s.h for s in scores if s.h is not None)
    mean = harmonic(base.mean if base else None, new.mean if new else None)
    return [base, new, Stat(mean, each.std, each.n) if each and mean is not None else None]


def average_over_datasets(scores: Sequence[Score]) -> list[Stat | None]:
    """Return base, new and H of one method, averaged over its data sets.

    H is the harmonic mean of the averaged columns. The spread is that between seeds.
    """
    datasets = unique(s.dataset for s in scores)
    each = [base_new_h([s for s in scores if s.dataset == d]) for d in datasets]
    seeds = [s for s in unique(s.seed for s in scores) if {t.dataset for t in scores if t.seed == s} == set(datasets)]
    by_seed = []
    if len(seeds) > 1:
        for seed in seeds:
            rows = [base_new_h([s for s in scores if s.dataset == d and s.seed == seed]) for d in datasets]
            by_seed.append([_mean(column) for column in zip(*rows, strict=True)][:2])
    base, new = (_mean(column) for column in list(zip(*each, strict=True))[:2])
    spreads = [Stat.of(v for v in (row[i] for row in by_seed) if v is not None) for i in range(2)]
    spreads.append(Stat.of(h for row in by_seed if (h := harmonic(*row)) is not None))
    means = (base, new, harmonic(base, new))
    return [
        None if m is None else Stat(m, s.std if s else None, s.n if s else 1)
        for m, s in zip(means, spreads, strict=True)
    ]


def _mean(stats: Sequence[Stat | None]) -> float | None:
    known = Stat.of(s.mean for s in stats if s is not None)
    return known.mean if known and known.n == len(stats) else None


def _costs(scores: Sequence[Score]) -> list:
    """Stored bytes (the most, if seeds differ), mean training time, number of runs."""
    stored = [s.stored_bytes for s in scores if s.stored_bytes is not None]
    time = Stat.of(s.time_s for s in scores if s.time_s is not None)
    return [max(stored, default=None), time and time.mean, len(scores)]


def base_new_table(scores: Sequence[Score]) -> Table:
    """Return the base-to-new table: data set, method, base, new, H, stored bytes, time, runs; the average on top."""
    datasets = unique(s.dataset for s in scores)
    name = method_names(scores)
    rows: list[list] = []
    notes = [f"Accuracy in %; {SPREAD}; H is the harmonic mean of the averaged base and new."]
    if len(datasets) > 1:
        notes.append("Average: over the data sets of a method; spread between seeds.")
        for (method, shots), own in by_method(scores).items():
            having = unique(s.dataset for s in own)
            title = f"Average of {len(datasets)}"
            label = name(method, shots)
            if len(having) < len(datasets):
                lacking = ", ".join(d for d in datasets if d not in having)
                notes.append(
                    f"{label} is averaged over {len(having)} of {len(datasets)} data sets; not run: {lacking}."
                )
                label += " *"
            seeds_of = {d: sorted({s.seed for s in complete([s for s in own if s.dataset == d])}) for d in having}
            if len(set(map(tuple, seeds_of.values()))) > 1:
                shown = "; ".join(f"{d}: {', '.join(map(str, found))}" for d, found in seeds_of.items())
                notes.append(f"{name(method, shots)} is averaged over data sets with different seeds ({shown}).")
            rows.append([title, label, *average_over_datasets(own), *_costs(own)])
    for dataset in datasets:
        for (method, shots), own in by_method([s for s in scores if s.dataset == dataset]).items():
            missing = [s for s in own if s.h is None]
            if missing and len(missing) < len(own):
                seeds = ", ".join(str(s.seed) for s in missing)
                notes.append(f"{name(method, shots)} on {dataset}: base or new is missing for seed {seeds}, left out.")
            rows.append([dataset_name(scores, dataset), name(method, shots), *base_new_h(own), *_costs(complete(own))])
    columns = [
        Column("Data set"),
        Column("Method"),
        *(Column(title, "percent", "high") for title in ("Base", "New", "H")),
        Column("Stored", "bytes"),
        Column("Time", "time"),
        Column("Runs", "count"),
    ]
    return Table("Base to new", columns, rows, notes, group_by=1)


def few_shot_table(scores: Sequence[Score]) -> Table:
    """Return the table of accuracy on all classes: a row per data set and method, a column per number of shots."""
    shots = sorted({s.shots for s in scores})
    rows: list[list] = []
    each: dict[str, list[list[Stat | None]]] = {}
    datasets = unique(s.dataset for s in scores)
    for dataset in datasets:
        own = [s for s in scores if s.dataset == dataset]
        for method in unique(s.method for s in own):
            cells = [Stat.of(s.accuracy["all"] for s in own if s.method == method and s.shots == k) for k in shots]
            rows.append([dataset_name(scores, dataset), method, *cells])
            each.setdefault(method, []).append(cells)
    if len(datasets) > 1:
        for method, found in reversed(each.items()):
            means = [_mean(column) if len(found) == len(datasets) else None for column in zip(*found, strict=True)]
            cells = [None if mean is None else Stat(mean) for mean in means]
            rows.insert(0, [f"Average of {len(datasets)}", method, *cells])
    columns = [Column("Data set"), Column("Method"), *(Column(shots_text(k), "percent", "high") for k in shots)]
    return Table("Few-shot, all classes", columns, rows, [f"Accuracy in %; {SPREAD}."], group_by=1)


def transfer_table(scores: Sequence[Score]) -> Table:
    """Return the table of prompts tested on other data sets: a row per method, a column per target."""
    targets = unique(s.dataset for s in scores)
    name = method_names(scores)
    rows: list[list] = []
    for source, method, shots in unique((s.source, s.method, s.shots) for s in scores):
        own = [s for s in scores if (s.source, s.method, s.shots) == (source, method, shots)]
        cells = [Stat.of(s.accuracy["all"] for s in own if s.dataset == target) for target in targets]
        average = _mean(cells)
        rows.append([source or "-", name(method, shots), *cells, None if average is None else Stat(average)])
    rows.sort(key=lambda row: row[0])
    names = [dataset_name(scores, target) for target in targets]
    columns = [Column("Learned on"), Column("Method"), *(Column(n, "percent", "high") for n in [*names, "Average"])]
    return Table("Transfer to other data sets, all classes", columns, rows, [f"Accuracy in %; {SPREAD}."])
