"""Prompts on the Hugging Face Hub, through huggingface_hub itself, with a local stand-in of the site."""

import re
import sys

import pytest
import torch
import yaml
from hub_site import hub_site
from PIL import Image
from report_runs import write_run

import qprompt
from qprompt.__main__ import main
from qprompt.errors import UserError
from qprompt.prompt_files.format import read_prompt_file
from qprompt.prompt_files.model_card import model_card

hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: pip install huggingface_hub")

REPO = "somebody/pets"


def is_of_hub(module):
    return module.partition(".")[0] == "huggingface_hub"


@pytest.fixture
def site(monkeypatch, tmp_path):
    """Import huggingface_hub anew, since it reads its settings once."""
    before = {name: module for name, module in sys.modules.items() if is_of_hub(name)}
    with hub_site() as (site, url):
        for name in before:
            del sys.modules[name]
        settings = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield site
        for name in [name for name in sys.modules if is_of_hub(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def prompt_file(path, classnames=("cat", "dog"), **metadata):
    learner = torch.nn.Module()
    learner.ctx = torch.nn.Parameter(torch.randn(4, 128, generator=torch.Generator().manual_seed(0)) * 0.02)
    qprompt.quantize_(learner, bits=1, names=["ctx"])
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"method": "QCoOp", "backbone": "tiny", "words": "a photo of a", **metadata}
    qprompt.save(learner, path, classnames=list(classnames), **metadata)
    return path


def finished_run(folder, **more):
    write_run(folder, "QCoOp", "OxfordPets", accuracy=91.25, **more)
    file = prompt_file(folder / "prompt_learner/prompt.qprompt")
    return folder, file


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_run_is_shared_and_loaded(site, tmp_path, monkeypatch):
    folder, file = finished_run(tmp_path / "run", prompt={"file": "prompt_learner/prompt.qprompt"})
    url = qprompt.push_to_hub(folder, REPO, private=True, token="hf_x", license="mit")
    assert url.endswith(f"/{REPO}/commit/{site.commits[-1]}")
    assert set(site.files[REPO]) == {"prompt.qprompt", "README.md"} and site.private[REPO]
    assert site.files[REPO]["prompt.qprompt"] == file.read_bytes()
    card = site.files[REPO]["README.md"].decode()
    assert str(tmp_path) not in card
    data = front_matter(card)
    assert data["library_name"] == "qprompt" and data["license"] == "mit"
    (result,) = data["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 91.25 and result["dataset"]["type"] == "OxfordPets"
    assert "| accuracy | 91.25% |" in card and "Learned on 2: cat, dog." in card

    # what the card says to type, typed
    Image.new("RGB", (32, 32), "red").save(tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall("```python\n(.*?)```", card, re.S)
    exec(program, {})
    (command,) = re.findall(r"^qprompt (predict .*)$", card, re.M)
    assert main(command.split()) == 0
    local = qprompt.load_classifier(file)
    shared = qprompt.load_classifier(f"hf://{REPO}")
    picture = Image.new("RGB", (32, 32), "red")
    assert (shared.predict_proba(picture) == local.predict_proba(picture)).all()
    assert qprompt.inspect(f"hf://{REPO}@{site.commits[-1]}/prompt.qprompt") == qprompt.inspect(file)


def test_the_card_of_others_stays(site, tmp_path, caplog):
    file = prompt_file(tmp_path / "a.qprompt")
    qprompt.push_to_hub(file, REPO, token="hf_x")
    site.files[REPO]["README.md"] = b"edited"
    qprompt.push_to_hub(file, REPO, token="hf_x")
    assert site.files[REPO]["README.md"] == b"edited" and "stays as it is" in caplog.text
    qprompt.push_to_hub(file, REPO, token="hf_x", replace_card=True)
    assert b"qprompt predict" in site.files[REPO]["README.md"]
    assert "/discussions/1" in qprompt.push_to_hub(file, REPO, token="hf_x", create_pr=True)


def test_the_command(site, tmp_path, capsys):
    folder, _ = finished_run(tmp_path / "run", prompt={"file": "prompt_learner/prompt.qprompt"})
    assert main(["push", str(folder), REPO, "--license", "mit"]) == 0
    assert f"/{REPO}/commit/" in capsys.readouterr().out


def test_every_name_gives_a_valid_card(tmp_path):
    names = ["a|b", "line\nbreak", "`code`", "<script>", "---", "[x](y)", "猫", "a: b #c"]
    file = read_prompt_file(prompt_file(tmp_path / "a.qprompt", names, method="Q: [x]\n---", run={"dataset": "a: b"}))
    card = model_card(hub, "somebody/yes", file, None)
    data = front_matter(card)
    assert data["library_name"] == "qprompt" and "Q: [x]\n---" in data["tags"] and "license" not in data
    body = card.split("---\n", 2)[2]
    assert "<script>" not in body.replace(r"\<script\>", "") and "line break" in body and "猫" in body


@pytest.mark.parametrize(
    "address, message",
    [
        ("hf://pets", "expected hf://USER/NAME"),
        ("hf://somebody/missing", "could not be downloaded"),
        (f"hf://{REPO}/other.qprompt", "could not be downloaded.*404"),
        (f"hf://{REPO}@v9", "could not be downloaded.*404"),
        (f"hf://{REPO}/README.md", "not a valid prompt file"),
    ],
)
def test_what_cannot_be_loaded_is_said(site, tmp_path, address, message):
    qprompt.push_to_hub(prompt_file(tmp_path / "a.qprompt"), REPO, token="hf_x")
    with pytest.raises(UserError, match=message) as error:
        qprompt.load(address)
    assert "\n" not in str(error.value)


def test_what_cannot_be_shared_is_said(site, tmp_path):
    file = prompt_file(tmp_path / "a.qprompt")
    with pytest.raises(UserError, match="expected USER/NAME"):
        qprompt.push_to_hub(file, "a b/c")
    with pytest.raises(UserError, match="expected USER/NAME"):
        qprompt.push_to_hub(file, "pets")
    with pytest.raises(UserError, match="not the output folder of a finished run"):
        qprompt.push_to_hub(tmp_path, REPO)
    folder = write_run(tmp_path / "coop", "CoOp").parent
    with pytest.raises(UserError, match="has no prompt file"):
        qprompt.push_to_hub(tmp_path / "coop", REPO)
    assert folder.exists()
    (tmp_path / "b.qprompt").write_bytes(b"x")
    with pytest.raises(UserError, match="not a valid prompt file"):
        qprompt.push_to_hub(tmp_path / "b.qprompt", REPO)
    assert not site.requests  # all before the first request
    site.token = "hf_right"
    with pytest.raises(UserError, match="was not uploaded.*401.*type 'hf auth login'") as error:
        qprompt.push_to_hub(file, REPO, token="hf_wrong")
    assert "\n" not in str(error.value)
