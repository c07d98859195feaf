"""The config merge: conversions, refusals and their messages."""

import pytest
from yacs.config import CfgNode

from qprompt.errors import UserError
from qprompt.io import nested
from qprompt.runs import config


@pytest.fixture
def cfg():
    return CfgNode(
        {
            "SEED": -1,
            "INPUT": {"SIZE": (224, 224), "TRANSFORMS": ()},
            "OPTIM": {"LR": 0.002, "NAME": "sgd"},
            "TRAINER": {"QUANT": {"BITS": 1, "KL_THRESHOLD": 0.01, "NORMALIZE": True}},
        }
    )


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("OPTIM.LR", "1", 1.0),  # yacs itself refuses an int here
        ("TRAINER.QUANT.KL_THRESHOLD", "1e-4", 1e-4),
        ("TRAINER.QUANT.BITS", "4", 4),
        ("TRAINER.QUANT.NORMALIZE", "False", False),
        ("INPUT.SIZE", "(32, 32)", (32, 32)),
        ("INPUT.TRANSFORMS", "normalize", ("normalize",)),
        ("OPTIM.NAME", "adam", "adam"),
        ("OPTIM.NAME", "1", "1"),
    ],
)
def test_option_is_converted_to_the_type_of_its_default(cfg, key, text, value):
    config.merge_options(cfg, [key, text])
    node = cfg
    for part in key.split("."):
        node = node[part]
    assert node == value
    assert type(node) is type(value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["TRAINER.QUANT.BIT", "1"], ["no config key TRAINER.QUANT.BIT", "Did you mean 'TRAINER.QUANT.BITS'"]),
        (["OPTIM.LR"], ["KEY VALUE pairs"]),
        (["OPTIM.LR", "fast"], ["OPTIM.LR expects a float", "'fast'"]),
        (["TRAINER.QUANT.BITS", "1.5"], ["TRAINER.QUANT.BITS expects an int", "1.5"]),
        (["TRAINER.QUANT.NORMALIZE", "1"], ["TRAINER.QUANT.NORMALIZE expects a bool"]),
        (["TRAINER.QUANT", "1"], ["group of keys", "TRAINER.QUANT.BITS"]),
        (["--seed", "1"], ["--seed", "before it"]),
        (["SEED.DEEP.ER", "1"], ["no config key SEED.DEEP.ER"]),
    ],
)
def test_wrong_option_is_named(cfg, options, words):
    with pytest.raises(UserError) as error:
        config.merge_options(cfg, options)
    for word in words:
        assert word in str(error.value)


def test_later_files_override_earlier_ones(cfg, tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("OPTIM:\n  LR: 1\n  NAME: adam\nINPUT:\n  SIZE: (32, 32)\n")
    second.write_text("OPTIM:\n  LR: 3e-3\n")
    config.merge_file(cfg, str(first))
    config.merge_file(cfg, str(second))
    assert (cfg.OPTIM.LR, cfg.OPTIM.NAME, cfg.INPUT.SIZE) == (3e-3, "adam", (32, 32))


def test_empty_file_changes_nothing(cfg, tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    before = cfg.dump()
    config.merge_file(cfg, str(tmp_path / "empty.yaml"))
    assert cfg.dump() == before


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("- a\n- b\n", "list"),
        ("a: [1, 2\n", "not valid YAML"),
        ("OPTIM:\n  LRR: 1\n", "'OPTIM.LR'"),
        ("1: 2\n", "not a config key"),
        ("!!python/object/apply:os.system ['true']\n", "not valid YAML"),
    ],
)
def test_broken_file_is_named(cfg, tmp_path, content, word):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        config.merge_file(cfg, str(path))
    assert str(path) in str(error.value)
    assert word in str(error.value)


def test_missing_file_is_named(cfg):
    with pytest.raises(UserError, match="no config file 'nowhere.yaml'"):
        config.merge_file(cfg, "nowhere.yaml")


def test_differences_have_dotted_keys():
    ours = {"A": {"B": 1, "C": [1]}, "D": 2}
    theirs = {"A": {"B": 1, "C": [2]}, "E": 3}
    assert nested.difference(ours, theirs) == {"A.C": ([1], [2]), "D": (2, None), "E": (None, 3)}


def test_every_key_of_quant_config_is_a_config_key():
    import dataclasses

    from qprompt.quantization.config import QuantConfig
    from qprompt.training.defaults import add_quant_cfg, quant_config

    cfg = CfgNode({"TRAINER": {}})
    add_quant_cfg(cfg)
    assert {k.lower() for k in cfg.TRAINER.QUANT} == {f.name for f in dataclasses.fields(QuantConfig)}
    assert quant_config(cfg) == QuantConfig()


@pytest.mark.parametrize("bits", [0, 17, -1])
def test_impossible_bits_are_refused_by_name(bits):
    from qprompt.training.defaults import add_quant_cfg, quant_config

    cfg = CfgNode({"TRAINER": {}})
    add_quant_cfg(cfg)
    cfg.TRAINER.QUANT.BITS = bits
    with pytest.raises(UserError, match=f"TRAINER.QUANT.*bits={bits}"):
        quant_config(cfg)
