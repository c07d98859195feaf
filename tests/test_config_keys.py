"""The table of config keys: complete, true, checked before a run, and printed by --help-config."""

import math
from fnmatch import fnmatchcase

import pytest
from dassl.data.transforms import transforms
from dassl.engine import TRAINER_REGISTRY  # noqa: F401
from dassl.optim import lr_scheduler, optimizer

from qprompt.errors import UserError
from qprompt.runs import config
from qprompt.training.config_keys import check_values, rule_of, rules
from qprompt.training.defaults import default_cfg
from qprompt.training.program import main

KEYS = list(config.keys(default_cfg()))


def value_of(cfg, key):
    for name in key.split("."):
        cfg = cfg[name]
    return cfg


def checked(*options):
    cfg = default_cfg()
    config.merge_options(cfg, options)
    check_values(cfg, default_cfg())
    return cfg


def test_every_key_is_in_the_table_and_every_row_is_a_key():
    assert [key for key in KEYS if rule_of(key) is None] == []
    assert [row for row in rules() if not any(fnmatchcase(key, row) for key in KEYS)] == []
    assert all(rule.help and "\n" not in rule.help for rule in rules().values())


@pytest.mark.parametrize("trainer", ["", "QCoOp", "QMaPLe"])
def test_every_default_is_allowed(trainer):
    defaults = default_cfg(trainer)
    for key in KEYS:
        value = value_of(defaults, key)
        assert rule_of(key).accepts(value, value) or value == "", key
    check_values(defaults, default_cfg())


@pytest.mark.bundled_only
def test_choices_are_those_of_the_engine():
    assert rules()["OPTIM.NAME"].choices == tuple(optimizer.AVAI_OPTIMS)
    assert rules()["OPTIM.LR_SCHEDULER"].choices == tuple(lr_scheduler.AVAI_SCHEDS)
    assert rules()["INPUT.TRANSFORMS"].choices == tuple(transforms.AVAI_CHOICES)
    assert rules()["INPUT.INTERPOLATION"].choices == tuple(transforms.INTERPOLATION_MODES)


@pytest.mark.parametrize("key", [key for key in KEYS if rule_of(key).min is not None])
def test_the_bounds_are_the_bounds(key):
    rule, default = rule_of(key), value_of(default_cfg(), key)
    if isinstance(default, (tuple, list)):
        wrap = lambda value: type(default)([value] * (rule.length or 1))  # noqa: E731
    else:
        wrap = lambda value: value  # noqa: E731
    lowest = float(rule.min) if isinstance(default, float) else int(rule.min)
    assert rule.accepts(wrap(lowest), default) and not rule.accepts(wrap(lowest - 1), default)
    assert not rule.accepts(wrap(math.nan), default) and not rule.accepts(wrap("x"), default)
    if rule.max is not None:
        assert not rule.accepts(wrap(rule.max + 1), default)


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("OPTIM.NAME", "adamW", "one of adam, amsgrad, sgd, rmsprop, radam, adamw. Did you mean 'adamw'?"),
        ("OPTIM.WARMUP_TYPE", "const", "one of constant, linear. Did you mean 'constant'?"),
        ("OPTIM.LR", "-1", "a number of at least 0."),
        ("OPTIM.LR", "nan", "a number of at least 0."),
        ("OPTIM.LR", "inf", "a number of at least 0."),
        ("OPTIM.MAX_EPOCH", "-1", "a whole number of at least 1."),
        ("OPTIM.MOMENTUM", "-0.9", "a number of at least 0."),
        ("DATALOADER.TRAIN_X.BATCH_SIZE", "0", "a whole number of at least 1."),
        ("DATALOADER.TEST.BATCH_SIZE", "-4", "a whole number of at least 1."),
        ("DATALOADER.NUM_WORKERS", "-1", "a whole number of at least 0."),
        ("DATALOADER.TRAIN_X.SAMPLER", "Random", "one of RandomSampler"),
        ("INPUT.SIZE", "0", "2 whole numbers of at least 1."),
        ("INPUT.SIZE", "(32, 32, 3)", "2 whole numbers of at least 1."),
        ("INPUT.SIZE", "(32, 32.5)", "2 whole numbers of at least 1."),
        ("INPUT.PIXEL_STD", "[0,0,0]", "3 numbers above 0."),
        ("INPUT.PIXEL_MEAN", "[0.5]", "3 numbers."),
        ("INPUT.PIXEL_MEAN", "['a', 'b', 'c']", "3 numbers."),
        ("INPUT.RRCROP_SCALE", "(1.0, 0.1)", "2 numbers, the smaller first, above 0 and of at most 1."),
        ("INPUT.GB_K", "20", "an odd number of at least 1."),
        ("INPUT.INTERPOLATION", "lanczos", "one of bilinear, bicubic, nearest."),
        ("INPUT.TRANSFORMS", "['flip']", "names among random_flip"),
        ("TRAIN.PRINT_FREQ", "0", "a whole number of at least 1."),
        ("TEST.FINAL_MODEL", "best", "one of last_step, best_val. Did you mean 'best_val'?"),
        ("TEST.SPLIT", "valid", "one of test, val."),
        ("DATASET.SUBSAMPLE_CLASSES", "bases", "one of all, base, new. Did you mean 'base'?"),
        ("SEED", "4294967296", "a whole number of at most 4294967295."),
        ("TRAINER.COOP.CLASS_TOKEN_POSITION", "start", "one of end, middle, front."),
        ("TRAINER.COOP.PREC", "float16", "one of fp16, fp32, amp, bf16, fp16-upstream."),
        ("TRAINER.QUANT.POLICY", "always", "one of cac, every, once."),
    ],
)
def test_values_that_are_not_allowed_are_named(key, value, expected):
    with pytest.raises(UserError) as error:
        checked(key, value)
    message = str(error.value)
    assert message.startswith(f"{key} is ") and f"expected {expected}" in message and "\n" not in message
    assert f"'train.py --help-config {key}' describes it" in message


def test_all_mistakes_are_named_at_once():
    with pytest.raises(UserError, match="OPTIM.NAME is 'adamW'.*TRAIN.PRINT_FREQ is 0"):
        checked("TRAIN.PRINT_FREQ", "0", "OPTIM.NAME", "adamW")


def test_one_number_is_a_square():
    assert checked("INPUT.SIZE", "48").INPUT.SIZE == (48, 48)


def test_the_command_prints_the_table(capsys):
    assert main(["--help-config"]) == 0
    out = capsys.readouterr().out
    assert all(f"{key}  (default " in out for key in KEYS)
    assert main(["--help-config", "OPTIM"]) == 0
    out = capsys.readouterr().out
    assert out.count("(default ") == sum(key.startswith("OPTIM.") for key in KEYS)
    assert main(["--help-config", "OPTIM.LRR"]) == 2
    assert "Did you mean 'OPTIM.LR'?" in capsys.readouterr().err
    assert main(["--help-config", "INPUTS"]) == 2
    assert "Did you mean 'INPUT'?" in capsys.readouterr().err
    assert main(["--help-config", "OPTIM.NAME"]) == 0
    assert capsys.readouterr().out == (
        "OPTIM.NAME  (default 'adam')\n    the optimizer: one of adam, amsgrad, sgd, rmsprop, radam, adamw\n"
    )
