"""``python -m qprompt train.py`` in a miniature third-party checkout; each run is a separate process."""

import os
import re
import shutil
import subprocess
import sys
import types
import urllib.error
from pathlib import Path

import pytest
import torch
from commands import python
from dassl.config import get_cfg_default
from yacs.config import CfgNode

from qprompt.__main__ import main
from qprompt.dropin import (
    compat,
    config_keys,
    ending,
    launcher,
    local_clip,
    names,
    plain_runs,
    second_derivatives,
)
from qprompt.errors import UserError
from qprompt.prompt_files import packing
from qprompt.prompts import starting_bits
from qprompt.quantization.api import quantize_
from qprompt.training.defaults import add_quant_cfg
from tests import miniature

ROOT = Path(__file__).resolve().parent.parent
MINIATURE = ROOT / "tests" / "dropin_checkout"
BUNDLED = ROOT / "qprompt" / "engine"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the miniature checkout, because runs write into it."""
    return shutil.copytree(MINIATURE, tmp_path_factory.mktemp("third_party") / "checkout")


def run(checkout, output, trainer, *arguments, launch=("-m", "qprompt"), code=0):
    """Run ``train.py --trainer TRAINER ARGUMENTS`` with the launcher, or without (``launch=()``); return the log."""
    folder = checkout / output
    words = [*launch, "train.py", "--root", "data", "--output-dir", str(folder), "--trainer", trainer, *arguments]
    paths = [ROOT] if launch else [ROOT, BUNDLED]  # without the launcher, `import dassl` must work by itself
    variables = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "QPROMPT_ENGINE": "bundled"}
    done = subprocess.run(
        [python(), *words],
        cwd=checkout,
        env={**os.environ, **variables, "CUDA_VISIBLE_DEVICES": ""},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == code, done.stdout[-4000:]
    return done.stdout


def checkpoint(checkout, output):
    path = checkout / output / "prompt_learner" / "model.pth.tar-2"
    return torch.load(path, weights_only=True)["state_dict"]


def test_full_precision_run_equals_one_without_the_launcher(checkout):
    run(checkout, "without", "Prompted", launch=())
    log = run(checkout, "with", "Prompted")
    assert "__name__ __main__" in log
    without, launched = checkpoint(checkout, "without"), checkpoint(checkout, "with")
    assert list(without) == list(launched)
    assert all(torch.equal(without[key], launched[key]) for key in without)


def test_old_code_trains_quantized_prompts_without_cuda(checkout):
    log = run(checkout, "old", "QOldCode", "TRAINER.QUANT.BITS", "2")
    assert "engine: bundled Dassl" in log
    assert "no CUDA device: .cuda() stays on the CPU" in log
    state, stored = checkpoint(checkout, "old"), packing.load(checkout / "old" / "prompt.qprompt")
    assert len(state["ctx"].unique()) <= 4
    assert torch.equal(state["ctx"], stored["prompt_learner.ctx"])


@pytest.mark.slow
def test_checkpoint_evaluates_with_and_without_the_launcher(checkout):
    run(checkout, "base", "QPrompted", "TRAINER.QUANT.BITS", "2", "DATASET.SUBSAMPLE_CLASSES", "base")
    on_new = ["--eval-only", "--model-dir", "base", "--load-epoch", "2", "DATASET.SUBSAMPLE_CLASSES", "new"]
    quantized = run(checkout, "new", "QPrompted", *on_new, "TRAINER.QUANT.BITS", "2")
    plain = run(checkout, "new_plain", "Prompted", *on_new, launch=())
    assert "* accuracy" in plain
    assert plain.partition("=> result")[2] == quantized.partition("=> result")[2]


def test_a_full_gpu_is_named_with_what_needs_less():
    for text in ("CUDA out of memory. Tried to allocate 2.00 GiB.", "CUDA error: out of memory"):
        advice = launcher._advice(torch.cuda.OutOfMemoryError(text), "train.py")
        assert "of the GPU is full" in advice and "DATALOADER.TRAIN_X.BATCH_SIZE" in advice
    assert "has no kernels for this GPU" in launcher._advice(RuntimeError("no kernel image is available"), "train.py")
    assert launcher._advice(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "train.py") is None


@pytest.mark.slow
def test_mixed_precision_error_names_the_fp32_flag(checkout):
    log = run(checkout, "mixed", "QHalf", code=2)
    assert "python -m qprompt --fp32 train.py" in log.splitlines()[-1]
    log = run(checkout, "float", "QHalf", launch=("-m", "qprompt", "--fp32"))
    assert "everything is computed in float32" in log
    weight = checkpoint(checkout, "float")["proj.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, weight.to(torch.float16).float())  # levels stay in half precision


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "arguments", "said"),
    [
        ("QPromtped", (), "Did you mean 'QPrompted'?"),
        ("QPrompted", ("TRAINER.QUANT.BIT", "2"), "Did you mean 'TRAINER.QUANT.BITS'?"),
        ("QPrompted", ("OPTIM.LRR", "2"), "Did you mean 'OPTIM.LR'?"),
        ("QPrompted", ("TRAINER.QUANT.INCLUDE", "*.ctxx"), "no parameter matches '*.ctxx'. There are: prompt_learner."),
        (
            "QPrompted",
            ("--config-file", "nowhere.yaml"),
            "nowhere.yaml does not exist. Data sets are",
        ),
    ],
)
def test_mistake_ends_in_one_line(checkout, trainer, arguments, said):
    last = run(checkout, "mistakes", trainer, *arguments, code=2).splitlines()[-1]
    assert last.startswith("qprompt: ")
    assert said in last


@pytest.fixture
def cfg(monkeypatch):
    """A config that is merged as in a launched script."""
    for name in ("merge_from_list", "merge_from_other_cfg"):
        monkeypatch.setattr(CfgNode, name, getattr(CfgNode, name))
    config_keys.check_merges()
    cfg = get_cfg_default()
    add_quant_cfg(cfg)
    return cfg


def test_quant_keys_are_checked_and_converted(cfg, tmp_path):
    cfg.merge_from_list(["TRAINER.QUANT.KL_THRESHOLD", "1", "OPTIM.LR", "0.5", "TRAINER.QUANT.INCLUDE", "*.ctx"])
    assert (cfg.TRAINER.QUANT.KL_THRESHOLD, cfg.OPTIM.LR, cfg.TRAINER.QUANT.INCLUDE) == (1.0, 0.5, ("*.ctx",))
    file = tmp_path / "quant.yaml"
    file.write_text("OPTIM:\n  LR: 0.1\nTRAINER:\n  QUANT:\n    BITS: 3\n    KL_THRESHOLD: 1e-4\n")
    cfg.merge_from_file(str(file))
    assert (cfg.TRAINER.QUANT.KL_THRESHOLD, cfg.OPTIM.LR, cfg.TRAINER.QUANT.BITS) == (1e-4, 0.1, 3)
    with pytest.raises(UserError, match=r"Did you mean 'TRAINER\.QUANT\.BITS'"):
        cfg.merge_from_list(["TRAINER.QUANT.BIT", "2"])
    file.write_text("TRAINER:\n  QUANT:\n    POLICI: every\n")
    with pytest.raises(UserError, match=r"the config file: .*POLICI\. Did you mean 'TRAINER\.QUANT\.POLICY'"):
        cfg.merge_from_file(str(file))
    with pytest.raises(UserError, match=r"the command line: no config key OPTIM\.LRR\. Did you mean 'OPTIM\.LR'"):
        cfg.merge_from_list(["TRAINER.QUANT.BITS", "2", "OPTIM.LRR", "1"])
    file.write_text("DATALOADER:\n  TRAIN_X:\n    BACH_SIZE: 2\n")
    with pytest.raises(UserError, match=r"the config file: .*BACH_SIZE\. Did you .*TRAIN_X\.BATCH_SIZE'"):
        cfg.merge_from_file(str(file))
    with pytest.raises(AssertionError):  # yacs itself refuses an odd number of words
        cfg.merge_from_list(["TRAINER.QUANT.BITS", "2", "OPTIM.LR"])


def test_clean_cfg_keeps_the_nodes_of_a_quantized_trainer(cfg):
    from dassl.config import clean_cfg

    cfg.TRAINER.MAPLE = CfgNode({"N_CTX": 2})
    config_keys.keeping_quant(clean_cfg)(cfg, "QMaPLe")
    assert set(cfg.TRAINER) == {"NAME", "MAPLE", "QUANT"}


def test_unknown_trainer_is_refused_before_anything_is_built(cfg):
    class Registry:
        registered_names = staticmethod(lambda: ["CoOp", "QCoOp"])
        get = staticmethod(lambda name: object)

    cfg.TRAINER.NAME, cfg.USE_CUDA = "QCoop", True
    cfg.MODEL.BACKBONE.PATH = ""
    with pytest.raises(UserError, match="no trainer 'QCoop' .* Did you mean 'QCoOp'"):
        launcher._with_checks(lambda cfg: None, Registry)(cfg)
    cfg.TRAINER.NAME = ""
    with pytest.raises(UserError, match="no trainer given. --trainer expects one of: CoOp, QCoOp"):
        launcher._with_checks(lambda cfg: None, Registry)(cfg)
    cfg.TRAINER.NAME = "QCoOp"
    assert launcher._with_checks(lambda cfg: "built", Registry)(cfg) == "built"


def test_missing_script_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no script 'trane\.py' in .* Run this in the checkout"):
        launcher.launch(["--fp32", "trane.py"])
    with pytest.raises(UserError, match=r"Did you mean '.*dropin_checkout/train\.py'"):
        launcher.launch([str(MINIATURE / "trane.py")])
    assert main(["--fats", "train.py"]) == 2
    assert "Did you mean '--fast'" in capsys.readouterr().err


def test_requested_trainer_starts_at_its_published_bits():
    assert names.requested_trainer(["train.py", "--trainer", "QMaPLe"]) == "QMaPLe"
    assert names.requested_trainer(["train.py", "--trainer=QMaPLe", "OPTIM.LR", "1"]) == "QMaPLe"
    assert names.requested_trainer(["train.py"]) == ""
    bits = {name: starting_bits(name) for name in ("QCoOp", "QMaPLe", "QIVLP", "QPromptSRC", "QKgCoOp", "")}
    assert bits == {"QCoOp": 1, "QMaPLe": 4, "QIVLP": 4, "QPromptSRC": 4, "QKgCoOp": 1, "": 1}


def test_a_quantized_name_is_the_plain_one_to_the_script(tmp_path):
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "mine.py").write_text(
        "class CoOp(Base): ...\nclass QOwn(Base): ...\nclass Own(Base): ...\n"
    )
    folder = tmp_path / "configs" / "trainers" / "CoOp"
    folder.mkdir(parents=True)
    (folder / "a.yaml").write_text("")
    typed = [
        "train.py",
        "--trainer",
        "QCoOp",
        "--config-file",
        f"{folder.parent}/QCoOp/a.yaml",
        "out/QCoOp",
    ]
    words, wanted, notes = names.as_plain(typed, str(tmp_path))
    assert words == ["train.py", "--trainer", "CoOp", "--config-file", f"{folder}/a.yaml", "out/QCoOp"]
    assert wanted == "QCoOp"
    assert notes == [f"{folder.parent}/QCoOp/a.yaml does not exist: {folder}/a.yaml is read"]
    assert names.as_plain(["train.py", "--trainer=QCoOp"], str(tmp_path)) == (
        ["train.py", "--trainer=CoOp"],
        "QCoOp",
        [],
    )
    for other in ("QOwn", "QMissing", "CoOp"):  # defined there; not defined; not quantized
        assert names.as_plain(["train.py", "--trainer", other], str(tmp_path))[1] == ""


def test_a_script_that_makes_the_plain_trainer_is_refused_at_its_first_step(monkeypatch):
    monkeypatch.setattr(plain_runs, "made", set())
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1)
    plain_runs.refuse_plain_training("")
    optimizer.step()
    plain_runs.refuse_plain_training("QMine")
    renamed = types.ModuleType("my_dassl.engine")
    renamed.TRAINER_REGISTRY = {}
    monkeypatch.setitem(sys.modules, "my_dassl.engine", renamed)
    said = "did not make QMine, but Mine, which is not quantized.*It imports my_dassl, which is not dassl: write dassl"
    with pytest.raises(UserError, match=said):
        optimizer.step()
    assert re.search(said, str(ending.swallowed()))
    with pytest.raises(UserError, match=said):
        plain_runs.require("QMine")
    plain_runs.made.add("QMine")
    optimizer.step()
    plain_runs.require("QMine")


def test_workers_of_a_data_loader_end_without_a_word(tmp_path):
    program = """
import os, sys
from qprompt.dropin import ending
from qprompt.errors import UserError
def check():
    raise UserError("not made")
with ending.reported_before_exit(check):
    if os.fork() == 0:
        os._exit(0)
    assert os.wait()[1] == 0
    sys.stdout.close()
    os._exit(0)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "qprompt: not made\n")


def test_local_clip_is_checked_and_given_to_the_loader(monkeypatch, clip_file, clip_weights, tmp_path):
    loader = types.ModuleType("somebodys.clip")
    loader._MODELS, loader._download = {"ViT-B/16": "https://nowhere"}, lambda url, root="": "downloaded"
    own = local_clip._is_loader
    monkeypatch.setattr(sys, "executable", python())  # weights are converted in a process of its own
    monkeypatch.setattr(local_clip, "_is_loader", lambda module: module is loader and own(module))
    with pytest.raises(UserError, match="imports no package with a loader like OpenAI's"):
        local_clip.use_local_clip(str(clip_file))
    monkeypatch.setitem(sys.modules, "somebodys.clip", loader)
    before = torch.get_rng_state()  # (a run with the file draws what a run without it draws)
    assert str(clip_file) in local_clip.use_local_clip(str(clip_file))
    assert torch.equal(torch.get_rng_state(), before)
    loaded = torch.load(loader._download("https://nowhere"), weights_only=True)
    assert all(torch.equal(loaded[key], value) for key, value in clip_weights.items())
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(clip_file.read_bytes()[:1000])
    with pytest.raises(UserError, match="may be truncated"):
        local_clip.use_local_clip(str(damaged))
    assert launcher._take_clip(["--clip", "a.pt", "train.py", "--root", "x"]) == (["train.py", "--root", "x"], "a.pt")
    assert launcher._take_clip(["--clip=a.pt", "train.py"]) == (["train.py"], "a.pt")
    with pytest.raises(UserError, match="--clip expects a file"):
        launcher._take_clip(["--clip", "train.py"])


def test_cuda_devices_are_the_cpu_in_every_notation(tmp_path):
    program = """
import torch
from qprompt.dropin import compat
compat.stay_on_cpu()
cpu = torch.device("cpu")
layer = torch.nn.Linear(2, 2)
for device in ("cuda", "cuda:0", torch.device("cuda", 1), 0):
    assert torch.ones(1).to(device).device == cpu
    assert layer.to(device) is layer
    assert torch.zeros(2, device=device).device == cpu
assert torch.ones(1).to(torch.float16).dtype == torch.float16
assert torch.ones(1).to(device="cuda:0", dtype=torch.float64).dtype == torch.float64
torch.save(torch.ones(1), "t.pt")
assert torch.load("t.pt", map_location="cuda:0").device == cpu
assert torch.load("t.pt", "cuda").device == cpu
torch.cuda.set_device(0)
"""
    done = subprocess.run([python(), "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0


def test_advice_after_errors_of_scripts():
    offline = urllib.error.URLError("no route to host")
    assert "a download failed (no route to host)" in launcher._advice(offline, "train.py")
    assert "--clip FILE train.py" in launcher._advice(offline, "train.py")
    twice = RuntimeError("derivative for aten::_scaled_dot_product_flash_attention_for_cpu_backward is not implemented")
    assert "python -m qprompt --math-attention train.py" in launcher._advice(twice, "train.py")
    assert launcher._advice(RuntimeError("anything else"), "train.py") is None


def test_trainers_that_differentiate_twice_are_recognized(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(MINIATURE / "train.py")])
    with miniature.imported():
        from dassl.engine import TRAINER_REGISTRY

        assert second_derivatives.differentiates_twice(TRAINER_REGISTRY.get("MetaLearner"))
        for name in ("Prompted", "GradientsOfTheLeaf"):  # in the same module, or with first derivatives
            assert not second_derivatives.differentiates_twice(TRAINER_REGISTRY.get(name))
        monkeypatch.setattr(sys, "argv", ["elsewhere/train.py"])
        assert not second_derivatives.differentiates_twice(TRAINER_REGISTRY.get("MetaLearner"))


@pytest.mark.parametrize(
    ("step", "helper", "twice"),
    [
        ("grad(loss, p, create_graph=True)", "", True),
        ("loss.backward(None, True, True)", "", True),
        ("grad(loss, p, None, None, False)", "", False),
        ("grad(loss, p, create_graph=False)  # create_graph=True", "", False),
        ("inner(loss)", "def inner(x, graph=True): return grad(x, create_graph=graph)", True),
        ("Inner()(loss)", "class Inner:\n    def __call__(self, x): grad(x, create_graph=1)", True),
        ("inner(loss)", "from functools import partial\ninner = partial(grad, create_graph=True)", True),
        ("grad(loss)", "def unused(x): return grad(x, create_graph=True)", False),
        ("'create_graph=True'", '"""torch.autograd.grad(create_graph=True)"""', False),
    ],
)
def test_second_derivatives_are_read_from_what_a_trainer_refers_to(monkeypatch, tmp_path, step, helper, twice):
    text = f"from torch.autograd import grad\n{helper}\nclass Mine:\n    def step(self, loss, p): return {step}\n"
    (tmp_path / "mine.py").write_text(text)
    module = types.ModuleType("mine")
    module.__file__ = str(tmp_path / "mine.py")
    monkeypatch.setitem(sys.modules, "mine", module)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py")])
    exec(compile(text, "mine.py", "exec"), vars(module))
    assert second_derivatives.differentiates_twice(module.Mine) is twice
    assert second_derivatives.differentiates_twice(type("QMine", (module.Mine,), {})) is twice


def test_pkg_resources_is_added_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    compat.add_pkg_resources()
    compat.add_pkg_resources()  # adds nothing the second time
    (finder,) = (f for f in sys.meta_path if isinstance(f, compat._PkgResources))
    assert sys.meta_path[-1] is finder  # a real pkg_resources is found before it
    assert finder.find_spec("something_else") is None
    spec = finder.find_spec("pkg_resources")
    module = finder.create_module(spec)
    finder.exec_module(module)
    assert module.parse_version("1.10") > module.packaging.version.parse("1.9")


def test_numpy_aliases_are_restored(monkeypatch):
    numpy = types.ModuleType("numpy")
    numpy.bool = "of numpy 2"
    monkeypatch.setitem(sys.modules, "numpy", numpy)
    compat.add_numpy_aliases()
    assert (numpy.int, numpy.object, numpy.bool) == (int, object, "of numpy 2")


def test_cuda_and_half_can_be_made_to_change_nothing(monkeypatch):
    for owner in (torch.Tensor, torch.nn.Module):
        for name in ("cuda", "half", "to"):
            monkeypatch.setattr(owner, name, getattr(owner, name))
    for name in (*compat._FACTORIES, "load"):
        monkeypatch.setattr(torch, name, getattr(torch, name))
    for name in ("set_device", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, getattr(torch.cuda, name))
    tensor, layer = torch.ones(2), torch.nn.Linear(2, 2)
    compat.stay_on_cpu()
    assert tensor.cuda() is tensor
    assert layer.cuda(device=0) is layer
    compat.use_full_precision()
    assert tensor.half().dtype == torch.float32
    assert layer.half().weight.dtype == torch.float32
    quantize_(layer, names="weight")
    assert torch.equal(layer.weight, layer.weight.to(torch.float16).float())  # levels are still rounded as in the file


def test_half_precision_error_is_returned(monkeypatch):
    assert compat.half_error_on_cpu() is None  # every supported torch can

    def refuse(*args, **kwargs):
        raise RuntimeError("not implemented for 'Half'\nmore")

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    assert compat.half_error_on_cpu() == "not implemented for 'Half'"


def test_prograd_removes_the_opposing_component():
    class Trainer:
        def __init__(self, weight):
            self._models = {"m": weight}

        def get_model_names(self, names=None):
            return ["m"]

        def detect_anomaly(self, loss):
            assert torch.isfinite(loss)

        def model_update(self, names):
            self.updated = names

    model = torch.nn.Linear(2, 1, bias=False)
    for own, other, expected in (
        ([1.0, -1.0], [0.0, 2.0], [1.0, 0.0]),  # opposing along y
        ([1.0, -1.0], [0.0, -2.0], [1.0, -1.0]),  # agreeing
        ([1.0, -1.0], [0.0, 0.0], [1.0, -1.0]),  # nothing to oppose
    ):
        trainer = Trainer(model)
        losses = ((model.weight * torch.tensor(g)).sum() for g in (own, other))
        compat.prograd_step(trainer, *losses)
        assert model.weight.grad.tolist() == [expected]
        assert trainer.updated == ["m"]
