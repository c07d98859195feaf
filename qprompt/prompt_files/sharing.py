"""`push_to_hub`: share a learned prompt on the Hugging Face Hub."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from qprompt.errors import UserError
from qprompt.prompt_files.format import read_prompt_file
from qprompt.prompt_files.hub import FILE, import_hub, reason
from qprompt.prompt_files.model_card import model_card
from qprompt.runs.metrics import Metrics, read_metrics
from qprompt.runs.record import METRICS

log = logging.getLogger(__name__)


def push_to_hub(
    source: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    license: str = "",
    replace_card: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
) -> str:
    """Upload a prompt file and a model card; ``load_classifier("hf://USER/NAME")`` loads it from there.

    The card is written from the metadata of the file and, for the folder of a run, from its metrics.json. Only these
    two files are uploaded: metrics.json itself, which contains paths of your machine, is not.

    Args:
        source: a prompt file, or the output folder of a finished run.
        repo_id: ``USER/NAME``; it is created if it does not exist.
        private: create it as a private one.
        license: the identifier of a license, for the card.
        replace_card: write the card anew where there is one.
        revision: the branch to write to.
        create_pr: open a pull request instead of writing to the branch.
        token: of the Hub; by default that of ``hf auth login``.

    Returns:
        The URL of the commit.

    Raises:
        UserError: huggingface_hub is not installed, there is no valid prompt file, or the Hub refuses.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id, re.ASCII):
        raise UserError(f"{repo_id!r} is not the name of a repository, expected USER/NAME.")
    hub = import_hub()
    path, metrics = _prompt_of(Path(source))
    file = read_prompt_file(path)
    card = model_card(hub, repo_id, file, metrics, license)
    api = hub.HfApi(token=token)
    files: list[Any] = [hub.CommitOperationAdd(FILE, path.read_bytes())]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if replace_card or not api.file_exists(repo_id, "README.md", revision=revision):
            files.append(hub.CommitOperationAdd("README.md", card.encode("utf-8")))
        else:
            log.info("%s has a README.md, which stays as it is (replace_card writes it anew).", repo_id)
        commit = api.create_commit(
            repo_id, files, commit_message=f"Upload {FILE}", revision=revision, create_pr=create_pr
        )
    except Exception as error:  # of the library, of its HTTP client
        raise UserError(f"{path} was not uploaded to {repo_id}: {reason(error)}") from error
    return str(commit.pr_url or commit.commit_url)


def _prompt_of(source: Path) -> tuple[Path, Metrics | None]:
    """Return the prompt file of a run's folder and the record of the run; or the file itself."""
    if not source.is_dir():
        return source, None
    if not (source / METRICS).is_file():
        raise UserError(f"{source} is not the output folder of a finished run: it has no {METRICS}.")
    metrics = read_metrics(source / METRICS)
    named = metrics.prompt.get("file")
    if not isinstance(named, str) or not (source / named).is_file():
        raise UserError(
            f"the run in {source} has no prompt file: only runs of quantized trainers (QCoOp, ...) write one. "
            "'qprompt pack' makes one of another run's checkpoint."
        )
    return source / named, metrics
