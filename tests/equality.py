"""Compare our trainers with upstream's: what each computes from a given start, as tensors.

    python tests/equality.py CHECKOUT CASE OUT.safetensors [OUTPUT_FOLDER]

runs a case of `CASES` with the trainer of a CoOp or MaPLe checkout on this project's engine and writes its results.
With a folder it also loads the checkpoint in it, or saves one there if it does not exist. This program wrote
tests/golden/CASE.safetensors.
"""

import os
import sys
import tempfile
from pathlib import Path

import torch

# case -> (environment variable with the path of the checkout, trainer, options)
CASES = {
    "coop_end": ("QPROMPT_COOP", "CoOp", ["TRAINER.COOP.CTX_INIT", "a photo of a"]),
    "coop_middle": (
        "QPROMPT_COOP",
        "CoOp",
        ["TRAINER.COOP.N_CTX", "4", "TRAINER.COOP.CLASS_TOKEN_POSITION", "middle"],
    ),
    "coop_front_csc": (
        "QPROMPT_COOP",
        "CoOp",
        ["TRAINER.COOP.N_CTX", "3", "TRAINER.COOP.CLASS_TOKEN_POSITION", "front", "TRAINER.COOP.CSC", "True"],
    ),
    "maple": ("QPROMPT_MAPLE", "MaPLe", ["TRAINER.MAPLE.PROMPT_DEPTH", "3"]),
    "cocoop": ("QPROMPT_MAPLE", "CoCoOp", ["TRAINER.COCOOP.N_CTX", "4"]),
    "ivlp": (
        "QPROMPT_MAPLE",
        "IVLP",
        ["TRAINER.IVLP.PROMPT_DEPTH_VISION", "4", "TRAINER.IVLP.PROMPT_DEPTH_TEXT", "3"],
    ),
    "vpt": ("QPROMPT_MAPLE", "VPT", ["TRAINER.VPT.PROMPT_DEPTH_VISION", "3"]),
}
# The same with enough classes that prompts fill several blocks of the packed attention.
MANY = ["DATASET.NAME", "ManyToy"]
CASES |= {f"{case}_many": (*CASES[case][:2], [*CASES[case][2], *MANY]) for case in list(CASES) if case != "vpt"}
# PREC fp16 of upstream: half-precision parameters, no gradient scaler; here PREC fp16-upstream.
RATES = ["OPTIM.LR", "0.002", "OPTIM.WARMUP_CONS_LR", "1e-5"]  # published; fp16 rounds most updates away
FP16_CASES = {
    f"{case}_fp16": (*CASES[case][:2], [*CASES[case][2], *RATES])
    for case in ("coop_end", "maple", "cocoop", "ivlp", "vpt")
}
STEPS, EPOCH = 20, 7  # optimizer steps; steps per epoch, after which the learning rate changes
PIXELS = 32


def batches(n_classes=6):
    """Yield the same batches on every machine, without random numbers."""
    index = torch.arange(6 * 3 * PIXELS * PIXELS, dtype=torch.float64).view(6, 3, PIXELS, PIXELS)
    for step in range(STEPS + 1):
        image = torch.sin(index * 0.37 + step * 1.3) * torch.cos(index.flip(0) * 0.011 * (step + 1))
        yield {"img": image.float(), "label": (torch.arange(6) * (step + 1)) % n_classes, "domain": torch.zeros(6)}


def learned(trainer):
    """Return name -> trained parameter, named as in upstream's checkpoints."""
    (model,) = trainer._models.values()
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def figures(trainer):
    """Return logits, losses, first gradients, the state at the start and after `STEPS` optimizer steps."""
    trainer.num_batches, trainer.epoch = EPOCH, 0
    parameters = learned(trainer)
    found = {f"start.{name}": p.detach().clone() for name, p in parameters.items()}
    *training, last = batches(trainer.num_classes)

    def logits():
        trainer.set_model_mode("eval")
        with torch.no_grad():
            out = trainer.model_inference(last["img"])
        trainer.set_model_mode("train")
        return out.float().clone()

    found["logits.before"] = logits()
    losses = []
    for step, batch in enumerate(training):
        trainer.batch_idx = step % EPOCH
        losses.append(trainer.forward_backward(batch)["loss"])
        if step == 0:
            found |= {f"grad.{name}": p.grad.clone() for name, p in parameters.items() if p.grad is not None}
    found["losses"] = torch.tensor(losses)
    found["logits.after"] = logits()
    found |= {f"end.{name}": p.detach().clone() for name, p in parameters.items()}
    return found


def fp16_figures(trainer):
    """Return `figures`, and the share of the entries of fp16 parameters that each step left unchanged."""
    halves = [p for p in learned(trainer).values() if p.dtype == torch.float16]
    step, unchanged = trainer.forward_backward, []

    def watched(batch):
        before = [p.detach().clone() for p in halves]
        summary = step(batch)
        same = [(a == b).flatten() for a, b in zip(before, halves, strict=True)]
        unchanged.append(torch.cat(same).float().mean() if same else torch.zeros(()))
        return summary

    trainer.forward_backward = watched
    return {**figures(trainer), "unchanged": torch.stack(unchanged)}


def start_from(trainer, found):
    """Set the parameters of a trainer to the start in `found`."""
    parameters = learned(trainer)
    start = {name.removeprefix("start."): value for name, value in found.items() if name.startswith("start.")}
    assert parameters.keys() == start.keys()
    with torch.no_grad():
        for name, value in start.items():
            parameters[name].copy_(value)


def assert_equal(ours, theirs, tolerance):
    """Compare each tensor, with a tolerance relative to its largest entry."""
    assert ours.keys() == theirs.keys()
    for name, wanted in theirs.items():
        got = ours[name]
        assert got.shape == wanted.shape, name
        error = ((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12)).item()
        assert error <= tolerance, f"{name} differs by {error:.1e}"


def assert_close(wanted, got, tolerance=5e-6):
    """Compare lists of tensors, with a tolerance relative to the largest entry of the wanted tensor."""
    for a, b in zip(wanted, got, strict=True):
        assert a.shape == b.shape
        assert not a.numel() or (a - b).abs().max() <= tolerance * a.abs().max()


def with_precision(trainer, options, precision):
    """Return the options of a case with another precision."""
    return [*options, f"TRAINER.{trainer.upper()}.PREC", precision]


def run_upstream(checkout, trainer, clip_file, *options, fp16=False):
    """Build upstream's trainer on the toy data in this process.

    Upstream rounds prompts to fp16 even with PREC fp32. Without `fp16` these casts are removed: the comparison is in
    fp32.
    """
    sys.path.insert(0, str(checkout))  # before ours: its `clip` and its `trainers`
    os.chdir(checkout)
    import warnings

    warnings.simplefilter("ignore")
    if fp16:
        options = with_precision(trainer, options, "fp16")
    else:
        torch.Tensor.half = torch.Tensor.float
        torch.nn.Module.half = torch.nn.Module.float
    torch.Tensor.cuda = lambda self: self
    from clip import clip

    clip._MODELS["ViT-B/16"] = str(clip_file)
    clip._download = lambda url, root=None: url
    _import_trainers(Path(checkout) / "trainers", torch.load(clip_file, weights_only=True))
    from toy import toy_trainer

    return toy_trainer(tempfile.mkdtemp(), clip_file, trainer, *options)


def _import_trainers(folder, weights):
    """Import upstream's modules; MaPLe's two hard-coded widths are replaced by those of the weights."""
    widths = {
        "n_ctx, 512": f"n_ctx, {weights['ln_final.weight'].shape[0]}",
        "ctx_dim, 768": f"ctx_dim, {weights['visual.ln_post.weight'].shape[0]}",
    }
    for name in ("coop", "cocoop", "maple", "independentVL", "vpt"):
        path = folder / f"{name}.py"
        if not path.exists():
            continue
        source = path.read_text(encoding="utf-8")
        if name == "maple":
            for literal, value in widths.items():
                assert literal in source
                source = source.replace(literal, value)
        exec(compile(source, str(path), "exec"), {"__name__": f"trainers.{name}", "__package__": "trainers"})


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parent)]
    from safetensors.torch import save_file

    from qprompt.backbones.random_weights import TEST_SHAPE, random_state_dict
    from qprompt.engine import activate

    activate()
    checkout, case, out, *folder = (Path(argument).resolve() for argument in sys.argv[1:])
    _, name, options = (CASES | FP16_CASES)[case.name]
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "clip.pt"
        torch.save(random_state_dict(TEST_SHAPE), weights)
        for module in [module for module in sys.modules if module.split(".")[0] == "clip"]:
            del sys.modules[module]  # the checkout contains its own
        trainer = run_upstream(checkout, name, weights, *options, fp16=case.name in FP16_CASES)
        if folder and folder[0].exists():
            trainer.load_model(str(folder[0]), epoch=1)
        found = (fp16_figures if case.name in FP16_CASES else figures)(trainer)
        if folder and not folder[0].exists():
            trainer.save_model(0, str(folder[0]))
    save_file({name: value.contiguous() for name, value in found.items()}, out)
