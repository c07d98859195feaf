"""Learning rate schedules with warm-up, one step per epoch.

CoOp's schedule: one warm-up epoch at a constant rate, then a cosine over MAX_EPOCH epochs that starts at the full rate.
For 200 epochs: 1e-5, 2e-3, 1.99988e-3, ...
"""

from collections import Counter

from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, StepLR

try:
    from torch.optim.lr_scheduler import LRScheduler
except ImportError:  # torch 1
    from torch.optim.lr_scheduler import _LRScheduler as LRScheduler

AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]
_PLAIN = (bool, int, float, str, list, tuple, dict, Counter, type(None))


def _plain_state(state):
    """Return the plain values in a scheduler's state: a dict, or the placeholder of a live scheduler of real Dassl."""
    state = state if isinstance(state, dict) else vars(state)
    return {key: value for key, value in state.items() if isinstance(value, _PLAIN)}


class _BaseWarmupScheduler(LRScheduler):
    """The rate of `warmup_lr` for `warmup_epoch` epochs, then that of the scheduler `successor`.

    Real Dassl saves the live successor, and with it the optimizer, in the state dict. A resumed scheduler then drives a
    copy of the optimizer, and the learning rate does not change. Here the state dict contains the successor's state,
    under a key that real Dassl does not use.
    """

    def __init__(self, optimizer, successor, warmup_epoch, last_epoch=-1, verbose=False):
        self.successor = successor
        self.warmup_epoch = warmup_epoch
        super().__init__(optimizer, last_epoch)

    def warmup_lr(self):
        """Return the rate of each parameter group in the warm-up epoch ``self.last_epoch``."""
        raise NotImplementedError

    def get_lr(self):
        """Return the rate of each parameter group in the epoch ``self.last_epoch``."""
        if self.last_epoch >= self.warmup_epoch:
            return self.successor.get_last_lr()
        return self.warmup_lr()

    def step(self, epoch=None):
        """Set the rates of the next epoch, or of `epoch`, which torch has deprecated."""
        args = () if epoch is None else (epoch,)
        if self.last_epoch >= self.warmup_epoch:
            self.successor.step(*args)
            self._last_lr = self.successor.get_last_lr()
        else:
            super().step(*args)

    def state_dict(self):
        """Return the state as plain values."""
        return {**_plain_state(self.__dict__), "successor_state": _plain_state(self.successor.state_dict())}

    def load_state_dict(self, state_dict):
        """Load a state dict of this class, or of real Dassl with the placeholder that `load_checkpoint` leaves."""
        successor = state_dict.get("successor_state", state_dict.get("successor", {}))
        self.successor.load_state_dict(_plain_state(successor))
        own = _plain_state(state_dict)
        own.pop("successor_state", None)
        own.pop("successor", None)
        self.__dict__.update(own)


class ConstantWarmupScheduler(_BaseWarmupScheduler):
    """Warm-up with the constant rate `cons_lr`."""

    def __init__(self, optimizer, successor, warmup_epoch, cons_lr, last_epoch=-1, verbose=False):
        self.cons_lr = cons_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch, verbose)

    def warmup_lr(self):
        """Return `cons_lr` for each parameter group."""
        return [self.cons_lr for _ in self.base_lrs]


class LinearWarmupScheduler(_BaseWarmupScheduler):
    """Warm-up with `min_lr` in the first epoch, then linearly to the full rate."""

    def __init__(self, optimizer, successor, warmup_epoch, min_lr, last_epoch=-1, verbose=False):
        self.min_lr = min_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch, verbose)

    def warmup_lr(self):
        """Return `min_lr` in the first epoch, then the full rate times the completed fraction of the warm-up."""
        if self.last_epoch == 0:
            return [self.min_lr for _ in self.base_lrs]
        return [lr * self.last_epoch / self.warmup_epoch for lr in self.base_lrs]


def _after_warmup(optimizer, cfg):
    if cfg.LR_SCHEDULER == "cosine":
        return CosineAnnealingLR(optimizer, cfg.MAX_EPOCH)
    stepsize = cfg.STEPSIZE
    if cfg.LR_SCHEDULER == "multi_step":
        if not isinstance(stepsize, (list, tuple)):
            raise TypeError(f"For multi_step lr_scheduler, stepsize must be a list, but got {type(stepsize)}")
        return MultiStepLR(optimizer, milestones=stepsize, gamma=cfg.GAMMA)
    if isinstance(stepsize, (list, tuple)):
        stepsize = stepsize[-1]
    if not isinstance(stepsize, int):
        raise TypeError(f"For single_step lr_scheduler, stepsize must be an integer, but got {type(stepsize)}")
    return StepLR(optimizer, step_size=stepsize if stepsize > 0 else cfg.MAX_EPOCH, gamma=cfg.GAMMA)


def build_lr_scheduler(optimizer, optim_cfg):
    """Return the schedule described by `optim_cfg` (``cfg.OPTIM``) for `optimizer`."""
    cfg = optim_cfg
    if cfg.LR_SCHEDULER not in AVAI_SCHEDS:
        raise ValueError(f"scheduler must be one of {AVAI_SCHEDS}, but got {cfg.LR_SCHEDULER}")
    scheduler = _after_warmup(optimizer, cfg)
    if cfg.WARMUP_EPOCH <= 0:
        return scheduler
    if not cfg.WARMUP_RECOUNT:
        scheduler.last_epoch = cfg.WARMUP_EPOCH
    if cfg.WARMUP_TYPE == "constant":
        return ConstantWarmupScheduler(optimizer, scheduler, cfg.WARMUP_EPOCH, cfg.WARMUP_CONS_LR)
    if cfg.WARMUP_TYPE == "linear":
        return LinearWarmupScheduler(optimizer, scheduler, cfg.WARMUP_EPOCH, cfg.WARMUP_MIN_LR)
    raise ValueError(f"warmup type must be constant or linear, but got {cfg.WARMUP_TYPE}")
