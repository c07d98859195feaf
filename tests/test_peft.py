"""Adapters and soft prompts of the PEFT library: quantized, saved by PEFT, read again, with equal logits."""

import re
import warnings
from pathlib import Path

import pytest
import torch

import qprompt
from qprompt.prompt_files.packing import stored_tensor
from qprompt.quantization.api import quantized_parameters

peft = pytest.importorskip("peft", reason="peft is not installed: pip install peft")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # about the tiny model: it has no name and no pretrained config
]

IDS = torch.arange(10)[None]


def language_model():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=97, n_positions=64, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


def adapted(config, start=False):
    """Return a model with an adapter as after training, or at its start, where many adapters do nothing."""
    torch.manual_seed(1)
    model = peft.get_peft_model(language_model(), config).eval()
    with torch.no_grad():
        for parameter in model.parameters() if not start else ():
            parameter.add_(0.1 * torch.randn_like(parameter) * parameter.requires_grad)
    return model


def reloaded(folder):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        return peft.PeftModel.from_pretrained(language_model(), folder).eval()


LORA = {"task_type": "CAUSAL_LM", "target_modules": ["c_attn"], "r": 4}
PROMPT = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 8}
CASES = {
    "prompt tuning": (peft.PromptTuningConfig(**PROMPT), "prompt_encoder.*"),
    "prefix tuning": (peft.PrefixTuningConfig(**PROMPT), "prompt_encoder.*"),
    "p-tuning": (peft.PromptEncoderConfig(**PROMPT, encoder_hidden_size=16), "prompt_encoder.*.weight"),
    "LoRA": (peft.LoraConfig(**LORA), "*lora_?.*"),
    "LoRA at its start": (peft.LoraConfig(**LORA), "*lora_?.*"),
    "LoRA of an embedding": (
        peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["wte"], r=4),
        "*lora_embedding_?.*",
    ),
    "AdaLoRA": (
        peft.AdaLoraConfig(task_type="CAUSAL_LM", target_modules=["c_fc"], init_r=4, target_r=2, total_step=10),
        "*lora_[AB]*",
    ),
    "IA3": (
        peft.IA3Config(
            task_type="CAUSAL_LM", target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"]
        ),
        "*ia3_l*",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_that_peft_saved_gives_the_same_logits(case, tmp_path):
    config, pattern = CASES[case]
    model = adapted(config, start=case == "LoRA at its start")
    plain = model(IDS).logits
    names = qprompt.quantize_(model, bits=2, names=[pattern])
    logits = model(IDS).logits
    for name in names:
        owner, _, leaf = name.rpartition(".")
        assert len(getattr(model.get_submodule(owner), leaf).unique()) <= 4
    assert torch.equal(logits, plain) == (case == "LoRA at its start")  # there the update is zero
    model.save_pretrained(tmp_path)
    assert torch.equal(reloaded(tmp_path)(IDS).logits, logits)


def test_a_prompt_file_holds_an_adapter(tmp_path):
    model = adapted(peft.PromptTuningConfig(**PROMPT))
    (name,) = qprompt.quantize_(model, bits=1, names=["prompt_encoder.*"])
    logits = model(IDS).logits
    path = tmp_path / "soft_prompt.qprompt"
    qprompt.save(model, path)
    assert path.stat().st_size < 700
    other = adapted(peft.PromptTuningConfig(**PROMPT))
    with torch.no_grad():
        other.get_parameter(name).zero_()
    assert not torch.equal(other(IDS).logits, logits)
    other.load_state_dict(qprompt.load(path), strict=False)
    assert torch.equal(other(IDS).logits, logits)


def test_quantized_adapters_read_what_peft_wrote(tmp_path):
    """load_adapter puts the values into the quantized tensors, and leaves other adapters alone."""
    config = peft.LoraConfig(**LORA)
    first = adapted(config)
    first.save_pretrained(tmp_path)
    second = adapted(config)
    names = qprompt.quantize_(second, bits=4, names=["*lora_?.default*"])
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(2 if parameter.requires_grad else 1)
    second.load_adapter(tmp_path, "default", is_trainable=True)
    expected = adapted(config)
    qprompt.quantize_(expected, bits=4, names=["*lora_?.default*"])
    assert torch.equal(second(IDS).logits, expected(IDS).logits)
    before = qprompt.plain_state_dict(second, latent=True)
    second.load_adapter(tmp_path, "other")
    after = qprompt.plain_state_dict(second, latent=True)
    assert all(torch.equal(before[name], after[name]) for name in names)
    second.set_adapter("other")
    assert torch.equal(second(IDS).logits, first(IDS).logits)


def test_training_continues_from_the_full_precision_values():
    model = adapted(peft.LoraConfig(**LORA))
    names = qprompt.quantize_(model, bits=2, names=["*lora_?.*"])
    latent = qprompt.plain_state_dict(model, latent=True)
    assert all(len(latent[name].unique()) > 4 for name in names)
    assert all(len(model.state_dict()[name].unique()) <= 4 for name in names)
    other = adapted(peft.LoraConfig(**LORA), start=True)
    qprompt.quantize_(other, bits=2, names=["*lora_?.*"])
    qprompt.load_state_dict_(other, latent)
    restored = qprompt.plain_state_dict(other, latent=True)
    assert all(torch.equal(restored[name], latent[name]) for name in names)
    assert torch.equal(other(IDS).logits, model(IDS).logits)


def test_merging_uses_the_quantized_values():
    model = adapted(peft.LoraConfig(**LORA))
    qprompt.quantize_(model, bits=2, names=["*lora_?.*"])
    logits = model(IDS).logits
    torch.testing.assert_close(model.merge_and_unload()(IDS).logits, logits)


def test_the_documentation_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parent.parent / "docs/peft.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- tests/test_peft.py runs this -->\n```python\n(.*?)```", page, re.S)
    assert len(blocks) == page.count("```python") == 2
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda name: language_model())
    exec("".join(blocks), {})


def test_the_documented_size():
    prompt = torch.nn.Embedding(8, 768)  # the width of GPT-2
    qprompt.quantize_(prompt, bits=1, names=["weight"])
    (fake, weight) = quantized_parameters(prompt)["weight"]
    assert stored_tensor("weight", weight, fake).payload_bytes == 772
    assert prompt.weight.nbytes == 24_576
