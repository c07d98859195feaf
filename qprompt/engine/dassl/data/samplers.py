"""Samplers: the order in which a loader visits the training items.

The domain and class samplers draw from the global generators of Python and numpy in the same order as Dassl's. They
iterate once on construction to determine their length; this draws random numbers too.
"""

# ruff: noqa: NPY002 (set_random_seed seeds numpy's global generator)

import random
from collections import defaultdict

import numpy as np
from torch.utils.data.sampler import RandomSampler, Sampler, SequentialSampler

from qprompt.errors import UserError


class _DomainSampler(Sampler):
    """Batches with the same number of images from each of `n_domain` domains, until one domain has too few left."""

    length: int

    def __init__(self, data_source, batch_size, n_domain):
        self.data_source = data_source
        self.domain_dict = defaultdict(list)
        for i, item in enumerate(data_source):
            self.domain_dict[item.domain].append(i)
        self.domains = list(self.domain_dict)
        self.n_domain = n_domain if n_domain and n_domain > 0 else len(self.domains)
        if batch_size % self.n_domain:
            raise UserError(f"the batch size {batch_size} is not a multiple of the {self.n_domain} domains in a batch")
        self.n_img_per_domain = batch_size // self.n_domain
        self.batch_size = batch_size

    def select_domains(self):
        """Return the domains of the next batch."""
        raise NotImplementedError

    def __iter__(self):
        left = {domain: list(indices) for domain, indices in self.domain_dict.items()}
        order = []
        exhausted = False
        while not exhausted:
            for domain in self.select_domains():
                chosen = random.sample(left[domain], self.n_img_per_domain)
                order.extend(chosen)
                gone = set(chosen)
                left[domain] = [i for i in left[domain] if i not in gone]
                exhausted |= len(left[domain]) < self.n_img_per_domain
        return iter(order)

    def __len__(self):
        return self.length


class RandomDomainSampler(_DomainSampler):
    """Batches from `n_domain` random domains per batch; 0 or None for all."""

    def __init__(self, data_source, batch_size, n_domain):
        super().__init__(data_source, batch_size, n_domain)
        self.length = sum(1 for _ in self)

    def select_domains(self):
        """Return a random choice of domains."""
        return random.sample(self.domains, self.n_domain)


class SeqDomainSampler(_DomainSampler):
    """Batches from all domains in sorted order."""

    def __init__(self, data_source, batch_size):
        super().__init__(data_source, batch_size, n_domain=None)
        self.domains.sort()
        self.length = sum(1 for _ in self)

    def select_domains(self):
        """Return all domains."""
        return self.domains


class RandomClassSampler(Sampler):
    """Batches of `n_ins` images from each of ``batch_size // n_ins`` random classes.

    Images of a class with fewer than `n_ins` are repeated. Images that do not fill a group of `n_ins` are skipped in
    this epoch.
    """

    def __init__(self, data_source, batch_size, n_ins):
        if batch_size < n_ins:
            raise ValueError(f"batch_size={batch_size} must be no less than n_ins={n_ins}")
        self.data_source = data_source
        self.batch_size = batch_size
        self.n_ins = n_ins
        self.ncls_per_batch = batch_size // n_ins
        self.index_dic = defaultdict(list)
        for i, item in enumerate(data_source):
            self.index_dic[item.label].append(i)
        self.labels = list(self.index_dic)
        if len(self.labels) < self.ncls_per_batch:
            raise UserError(f"a batch of {self.ncls_per_batch} classes, but there are only {len(self.labels)}")
        self.length = sum(1 for _ in self)

    def __iter__(self):
        chunks = {}
        for label in self.labels:
            indices = list(self.index_dic[label])
            if len(indices) < self.n_ins:
                indices = np.random.choice(indices, size=self.n_ins, replace=True)
            random.shuffle(indices)
            full = len(indices) // self.n_ins * self.n_ins
            chunks[label] = [indices[i : i + self.n_ins] for i in range(0, full, self.n_ins)]
        labels = list(self.labels)
        order: list[int] = []
        while len(labels) >= self.ncls_per_batch:
            for label in random.sample(labels, self.ncls_per_batch):
                order.extend(int(i) for i in chunks[label].pop(0))
                if not chunks[label]:
                    labels.remove(label)
        return iter(order)

    def __len__(self):
        return self.length


def build_sampler(sampler_type, cfg=None, data_source=None, batch_size=32, n_domain=0, n_ins=16):
    """Return the sampler with the name `sampler_type` over `data_source`, a list of `Datum`."""
    samplers = {
        "RandomSampler": lambda: RandomSampler(data_source),
        "SequentialSampler": lambda: SequentialSampler(data_source),
        "RandomDomainSampler": lambda: RandomDomainSampler(data_source, batch_size, n_domain),
        "SeqDomainSampler": lambda: SeqDomainSampler(data_source, batch_size),
        "RandomClassSampler": lambda: RandomClassSampler(data_source, batch_size, n_ins),
    }
    if sampler_type not in samplers:
        raise ValueError(f"Unknown sampler type: {sampler_type}; one of {list(samplers)}")
    return samplers[sampler_type]()
