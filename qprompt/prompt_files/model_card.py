"""The model card (README.md) of a shared prompt, from the metadata of the file and the record of its run."""

import re
from types import ModuleType
from typing import Any

from qprompt.prompt_files.format import PromptFile
from qprompt.runs.metrics import Metrics

# The repositories of OpenAI's weights on the Hugging Face Hub.
BASE_MODELS = {
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336",
}

_PAPER = """## Method

*Quantized Prompt for Efficient Generalization of Vision-Language Models*, Hao et al., ECCV 2024,
[arXiv 2407.10704](https://arxiv.org/abs/2407.10704), as implemented by QPrompt."""


def model_card(hub: ModuleType, repo: str, file: PromptFile, metrics: Metrics | None, license: str = "") -> str:
    """Return the text of the card.

    Args:
        hub: the package huggingface_hub, which writes the YAML front matter.
        repo: ``USER/NAME``.
        file: the prompt file.
        metrics: of the run that trained it, where known.
        license: the identifier of a license of the Hub; by default the card names none.
    """
    about = file.about
    run: dict[str, Any] = {key: _line(value) for key, value in about.get("run", {}).items()}
    if metrics is not None:
        run |= {"dataset": metrics.dataset, "classes": metrics.classes, "shots": metrics.shots, "seed": metrics.seed}
    results = metrics.results if metrics is not None else about.get("metrics", {})
    sections = [
        f"# {_line(repo.rpartition('/')[2])}",
        _summary(about, run, file),
        _usage(repo),
        _results(results, run),
        _classes(about.get("classnames")),
        _details(about, file, metrics),
        _PAPER,
    ]
    return (
        f"---\n{_front_matter(hub, repo, about, run, results, license)}\n---\n\n"
        + "\n\n".join(filter(None, sections))
        + "\n"
    )


def _front_matter(hub: ModuleType, repo: str, about: dict, run: dict, results: dict, license: str) -> str:
    evaluations, dataset = [], str(run.get("dataset", ""))
    if dataset and results.get("accuracy") is not None:
        evaluations.append(
            hub.EvalResult(
                task_type="zero-shot-image-classification",
                dataset_type=dataset,
                dataset_name=f"{dataset}, {run.get('classes', 'all')} classes",
                dataset_split="test",
                metric_type="accuracy",
                metric_name="accuracy (%)",
                metric_value=round(float(results["accuracy"]), 2),
            )
        )
    return hub.ModelCardData(
        library_name="qprompt",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "prompt-learning", "quantization", *([about["method"]] if about.get("method") else [])],
        base_model=BASE_MODELS.get(about.get("backbone", "")),
        license=license or None,
        model_name=repo.rpartition("/")[2],
        eval_results=evaluations or None,
    ).to_yaml()


def _summary(about: dict, run: dict, file: PromptFile) -> str:
    size = sum(tensor.payload_bytes for tensor in file.tensors.values())
    text = f"A prompt of {size:,} bytes for CLIP {_line(about.get('backbone', '')) or '(backbone not named)'}"
    if about.get("method"):
        text += f", learned with {_line(about['method'])}"
    if run.get("dataset"):
        text += f" on {run['dataset']} ({run.get('shots', '?')} images per class, {run.get('classes', 'all')} classes"
        text += f", seed {run.get('seed', '?')})"
    return text + ". It classifies images into any classes that are given by name."


def _usage(repo: str) -> str:
    return f"""## Use

```bash
pip install huggingface_hub  # and QPrompt, from a clone of its repository
qprompt predict hf://{repo} picture.jpg
```

```python
import qprompt

classifier = qprompt.load_classifier("hf://{repo}")  # classnames=["cat", "dog"]: your own
print(classifier.predict("picture.jpg"))
```"""


def _results(results: dict, run: dict) -> str:
    if results.get("accuracy") is None:
        return ""
    rows = [f"| accuracy | {float(results['accuracy']):.2f}% |"]
    if isinstance(results.get("macro_f1"), (int, float)):
        rows.append(f"| macro F1 | {float(results['macro_f1']):.2f}% |")
    if isinstance(results.get("total"), int):
        rows.append(f"| test images | {results['total']:,} |")
    where = f"On the test images of {run['dataset']}, {run.get('classes', 'all')} classes, in one run:" if run else ""
    return "\n".join(["## Results", "", where, "", "| | |", "|---|---|", *rows]).replace("\n\n\n", "\n\n")


def _classes(names: list[str] | None) -> str:
    if not names:
        return ""
    shown = ", ".join(map(_line, names[:200]))
    more = f", and {len(names) - 200:,} more" if len(names) > 200 else ""
    return f"## Classes\n\nLearned on {len(names):,}: {shown}{more}."


def _details(about: dict, file: PromptFile, metrics: Metrics | None) -> str:
    bits = sorted({tensor.bits for tensor in file.tensors.values()})
    rows = {
        "bits per number": ", ".join(map(str, bits)),
        "file": f"{file.file_bytes:,} bytes",
        "backbone": about.get("backbone", ""),
        "SHA-256 of the backbone": about.get("backbone_sha256", ""),
        "QPrompt": about.get("qprompt", ""),
        "PyTorch": str(metrics.versions.get("torch", "")) if metrics is not None else "",
        "split (SHA-256)": metrics.split_sha256 if metrics is not None else "",
    }
    lines = [f"| {key} | {_line(value)} |" for key, value in rows.items() if value]
    return "\n".join(["## Details", "", "| | |", "|---|---|", *lines])


def _line(value: Any) -> str:
    """Return a value as text that cannot break a line, a table or a link of Markdown."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text) if not re.fullmatch(r"[\w./@+ ,()-]*", text) else text
