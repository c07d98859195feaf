"""Registry, logging, meters, checkpoints, seeds and file helpers."""

# ruff: noqa: F403 (each module lists its names in __all__)
from .logger import *
from .meters import *
from .registry import *
from .tools import *
from .torchtools import *
