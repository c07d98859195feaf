"""Share a learned prompt on the Hugging Face Hub, with a model card.

Then `qprompt predict hf://USER/NAME picture.jpg` and `qprompt.load_classifier("hf://USER/NAME")` load it.

Example:
  qprompt push output/pets you/pets-prompt
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``qprompt push``."""
    add = parser.add_argument
    add("source", metavar="FILE|RUN", help="prompt file, or output folder of a finished run")
    add("repo", metavar="USER/NAME", help="repository on the Hub; it is created if it does not exist")
    add("--private", action="store_true", help="create a private repository")
    add("--license", default="", metavar="NAME", help="license for the model card, e.g. mit (default: none is named)")
    add("--replace-card", action="store_true", help="write README.md anew if the repository has one")
    add("--pull-request", action="store_true", help="open a pull request instead of writing to the main branch")


def run(args: argparse.Namespace) -> None:
    """Upload the file and print where it is."""
    from qprompt.prompt_files.sharing import push_to_hub

    url = push_to_hub(
        args.source,
        args.repo,
        private=args.private,
        license=args.license,
        replace_card=args.replace_card,
        create_pr=args.pull_request,
    )
    print(f"Uploaded: {url}")
