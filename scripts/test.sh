#!/usr/bin/env bash
# Install what the tests need, then lint, type-check and test. Arguments go to pytest: bash scripts/test.sh -k kmeans
set -euo pipefail
INSTALL=".[test]"
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "$0")/env.sh"

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
# One thread per process: the tensors are small, and two processes share two cores.
OMP_NUM_THREADS=1 MPLBACKEND=agg "$PYTHON" -m pytest -n "${PYTEST_WORKERS:-2}" "$@"
