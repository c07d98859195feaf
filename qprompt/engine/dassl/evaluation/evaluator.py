"""Accuracy, macro F1, per-class accuracy and the confusion matrix."""

import os
from collections import OrderedDict, defaultdict

import numpy as np
import torch

from qprompt.errors import UserError
from qprompt.io.files import atomic_open

from .build import EVALUATOR_REGISTRY


class EvaluatorBase:
    """Base class: call ``reset()``, ``process(output, labels)`` per batch, then ``evaluate()``."""

    def __init__(self, cfg):
        self.cfg = cfg

    def reset(self):
        """Remove all batches."""
        raise NotImplementedError

    def process(self, mo, gt):
        """Add a batch: model output `mo` and ground truth `gt`."""
        raise NotImplementedError

    def evaluate(self):
        """Print the results and return them as a dict; the first value is the main result."""
        raise NotImplementedError


def macro_f1(y_true, y_pred):
    """Return the mean of F1 = 2 TP / (2 TP + FP + FN) over the classes in `y_true`, from 0 to 1."""
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    size = int(max(y_true.max(), y_pred.max())) + 1
    hits = np.bincount(y_true[y_true == y_pred], minlength=size)
    support = np.bincount(y_true, minlength=size)
    predicted = np.bincount(y_pred, minlength=size)
    present = support > 0
    return float(np.mean(2 * hits[present] / (support + predicted)[present]))


def confusion_matrix(y_true, y_pred):
    """Return the fraction of each true class (rows) that is predicted as each class (columns).

    The classes are those that occur in `y_true` or `y_pred`, sorted.
    """
    classes, index = np.unique(np.concatenate([y_true, y_pred]), return_inverse=True)
    rows, columns = index[: len(y_true)], index[len(y_true) :]
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (rows, columns), 1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error rate and macro F1 in percent; with TEST.PER_CLASS_RESULT also the accuracy per class."""

    def __init__(self, cfg, lab2cname=None, **kwargs):
        super().__init__(cfg)
        assert lab2cname is not None or not cfg.TEST.PER_CLASS_RESULT
        self._lab2cname = lab2cname
        self.reset()

    def reset(self):
        """Remove all batches."""
        self._correct = 0
        self._total = 0
        self._y_true = []
        self._y_pred = []
        self._per_class_res: dict[int, list[int]] | None = None
        if self.cfg.TEST.PER_CLASS_RESULT:
            self._per_class_res = defaultdict(list)

    def process(self, mo, gt):
        """Add a batch of logits `mo` (B, C) and labels `gt` (B,)."""
        pred = mo.max(1)[1]
        y_true, y_pred = gt.tolist(), pred.tolist()
        matches = [int(t == p) for t, p in zip(y_true, y_pred, strict=True)]
        self._correct += sum(matches)
        self._total += len(matches)
        self._y_true.extend(y_true)
        self._y_pred.extend(y_pred)
        if self._per_class_res is not None:
            for label, match in zip(y_true, matches, strict=True):
                self._per_class_res[label].append(match)

    def evaluate(self):
        """Print and return the results in percent: accuracy, error_rate, macro_f1 and, optionally, perclass_accuracy.

        With TEST.COMPUTE_CMAT the confusion matrix is saved to OUTPUT_DIR/cmat.pt.

        Raises:
            UserError: no batch was added.
        """
        if not self._total:
            raise UserError("nothing was evaluated: the data loader returned no batch")
        results = OrderedDict()
        acc = results["accuracy"] = 100.0 * self._correct / self._total
        err = results["error_rate"] = 100.0 - acc
        f1 = results["macro_f1"] = 100.0 * macro_f1(self._y_true, self._y_pred)
        print(
            "=> result\n"
            f"* total: {self._total:,}\n"
            f"* correct: {self._correct:,}\n"
            f"* accuracy: {acc:.1f}%\n"
            f"* error: {err:.1f}%\n"
            f"* macro_f1: {f1:.1f}%"
        )
        if self._per_class_res is not None:
            results["perclass_accuracy"] = self._print_classes(self._per_class_res)
        if self.cfg.TEST.COMPUTE_CMAT:
            path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
            with atomic_open(path) as file:
                torch.save(torch.from_numpy(confusion_matrix(self._y_true, self._y_pred)), file)
            print(f"Confusion matrix is saved to {path}")
        return results

    def _print_classes(self, per_class):
        print("=> per-class result")
        accs = []
        for label, matches in sorted(per_class.items()):
            acc = 100.0 * sum(matches) / len(matches)
            accs.append(acc)
            print(
                f"* class: {label} ({self._lab2cname[label]})\ttotal: {len(matches):,}\t"
                f"correct: {sum(matches):,}\tacc: {acc:.1f}%"
            )
        mean_acc = float(np.mean(accs))
        print(f"* average: {mean_acc:.1f}%")
        return mean_acc
