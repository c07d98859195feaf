"""The commands of ``qprompt``: one module each, see `qprompt.__main__`."""
