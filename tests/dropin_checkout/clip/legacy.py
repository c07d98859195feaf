"""What current setuptools, numpy and a machine without CUDA refuse."""

import numpy as np
from pkg_resources import packaging

assert packaging.version.parse("1.10") > packaging.version.parse("1.9")
N_CTX = np.ones(1).astype(np.int)[0]  # noqa: NPY001 (the point of it)
