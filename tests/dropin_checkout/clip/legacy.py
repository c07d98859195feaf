"""Code that fails with current setuptools and numpy."""

import numpy as np
from pkg_resources import packaging

assert packaging.version.parse("1.10") > packaging.version.parse("1.9")
N_CTX = np.ones(1).astype(np.int)[0]  # noqa: NPY001 (under test)
