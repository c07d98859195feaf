"""``python recording.py FILE [-m qprompt] train.py ARGUMENTS``: runs that, and saves the logits of its test to FILE.

Where there is no CUDA device, ``.cuda()`` does nothing, so that scripts which call it can run without the launcher too.
"""

import os
import runpy
import sys

import torch

LOGITS: list[torch.Tensor] = []


class _Evaluator:
    """Finds ``dassl.evaluation.evaluator`` as everyone does, and has it keep what it is given."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "dassl.evaluation.evaluator":
            return None
        others = (finder.find_spec(fullname, path) for finder in sys.meta_path if finder is not self)
        spec = next(spec for spec in others if spec is not None)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            process = module.Classification.process

            def keep(self, mo, gt):
                LOGITS.append(mo.detach().cpu())
                process(self, mo, gt)

            module.Classification.process = keep

        spec.loader.exec_module = exec_module
        return spec


if __name__ == "__main__":
    file, *sys.argv = sys.argv[1:]
    sys.meta_path.insert(0, _Evaluator())
    if not torch.cuda.is_available():
        torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *args, **kwargs: self
    sys.path[0] = os.getcwd()
    code, end = 0, os._exit

    def save():
        if LOGITS:
            torch.save(torch.cat(LOGITS), file)

    def save_and_end(status):  # for scripts that end like this
        save()
        end(status)

    os._exit = save_and_end
    try:
        if sys.argv[0] == "-m":
            runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        code = error.code
    save()
    sys.exit(code)
