# shellcheck shell=bash
# Sourced by the other scripts. Sets PYTHON to an interpreter with everything installed: that of the active environment
# if torch (2.4 or newer) and torchvision work there, else that of .venv, which is created on first use.
# INSTALL: what to install (default "."), e.g. ".[test]".

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

_works() {
    "$1" -c 'import torch, torchvision; assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)' >/dev/null 2>&1
}

_new_python() { # print the first interpreter of a supported version
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    echo "No Python 3.10 or newer with venv was found (Debian, Ubuntu: apt install python3-venv)." >&2
    return 1
}

if [ -n "${PYTHON:-}" ]; then
    _works "$PYTHON" || { echo "PYTHON=$PYTHON cannot import torch (2.4 or newer) and torchvision." >&2; exit 1; }
elif _works python; then
    PYTHON=python
elif [ -x .venv/bin/python ]; then
    PYTHON=.venv/bin/python
else
    _base=$(_new_python) || exit 1
    echo "Making the environment .venv with $("$_base" --version) ..."
    "$_base" -m venv .venv || exit 1
    PYTHON=.venv/bin/python
fi

# pip knows whether everything is installed, but takes seconds to say so: ask it once per setup.py and environment.
_stamp=$("$PYTHON" -c 'import sys, hashlib; print(hashlib.sha256(open("setup.py","rb").read() + sys.prefix.encode() + sys.argv[1].encode()).hexdigest()[:16])' "${INSTALL:-.}")
if [ ! -e "build/installed-$_stamp" ]; then
    echo "Installing qprompt and what it needs (a minute or two; PyTorch is large) ..."
    _constraint=$(mktemp)
    # Keep the PyTorch that is already installed.
    "$PYTHON" -c 'import torch; print("torch==" + torch.__version__.partition("+")[0])' >"$_constraint" 2>/dev/null || true
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --constraint "$_constraint" --editable "${INSTALL:-.}" || exit 1
    rm -f "$_constraint"
    mkdir -p build && touch "build/installed-$_stamp"
fi
export PYTHON
