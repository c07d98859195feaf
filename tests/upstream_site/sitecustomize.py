"""On PYTHONPATH, this gives an unmodified checkout a small CLIP: its ``clip.clip._download`` returns $CLIP_ARCHIVE.

Python imports a module of this name at start, before any script, so neither the checkout nor its command line changes.
"""

import importlib.machinery
import os
import sys


class _ArchiveForClip:
    """Finds ``clip.clip`` as everyone does, then replaces one function in it."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "clip.clip":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                module._download = lambda url, root=None: os.environ["CLIP_ARCHIVE"]

            spec.loader.exec_module = exec_module
        return spec


if os.environ.get("CLIP_ARCHIVE"):
    sys.meta_path.insert(0, _ArchiveForClip())
