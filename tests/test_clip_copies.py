"""A copied CLIP is the one that is loaded, and leaves the same random state."""

import torch
from clip_copies import copying

from qprompt.backbones import load_clip


def test_copies_are_what_is_loaded(clip_file):
    calls = []
    load = copying(lambda *given: calls.append(given) or load_clip(*given))
    for seed in (1, 2, 1, 2):
        torch.manual_seed(seed)
        wanted, drawn = load_clip("ViT-B/16", clip_file).state_dict(), torch.rand(3)
        torch.manual_seed(seed)
        model = load("ViT-B/16", str(clip_file))
        assert all(map(torch.equal, model.state_dict().values(), wanted.values()))
        assert torch.equal(torch.rand(3), drawn)
        model.logit_scale.data.zero_()  # changes no other copy
    assert len(calls) == 2
