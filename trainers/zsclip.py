"""Zero-shot CLIP: hand-written prompts, nothing learned."""

import torch
from dassl.engine import TRAINER_REGISTRY

from qprompt.prompted_clip import PromptedCLIP, PromptLayout, normalize, tokenize
from trainers.prompt_trainer import PromptTrainer

TEMPLATES = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
}
DEFAULT_TEMPLATE = "a photo of a {}."
# The seven of CLIP's 80 ImageNet templates that its authors found to do nearly as well as all.
ENSEMBLE = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


class EnsembledCLIP(PromptedCLIP):
    """Zero-shot CLIP; with several templates, the mean of their normalized features is a class's feature.

    `layout` holds the classes' prompts template by template.
    """

    def __init__(self, clip_model, layout, n_templates, logit_scale=0.0):
        super().__init__(clip_model, layout, logit_scale=logit_scale)
        self.n_templates = n_templates

    def encode_classes(self, prompts):
        features = super().encode_classes(prompts)  # (templates * C, E)
        if self.n_templates == 1:
            return features
        return normalize(features.unflatten(0, (self.n_templates, -1)).mean(dim=0))


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """CLIP with the data set's hand-written template."""

    learns = False

    def check_cfg(self, cfg):
        pass

    def build_model(self):
        self.precision = "fp32"
        clip_model = self.load_backbone()
        self.model = self.build_prompted_clip(clip_model, self.dm.dataset.classnames).to(self.device).eval()
        self.keep_features()

    def templates(self):
        """Templates with {} for the class; a data set of one's own may have an attribute `template`."""
        own = getattr(self.dm.dataset, "template", DEFAULT_TEMPLATE)
        return [TEMPLATES.get(self.cfg.DATASET.NAME, own)]

    def build_prompted_clip(self, clip_model, classnames):
        templates = self.templates()
        prompts = [template.format(name.replace("_", " ")) for template in templates for name in classnames]
        print(f"Prompts: {prompts}")
        tokens = tokenize(clip_model, prompts)
        layout = PromptLayout(clip_model, tokens, torch.full_like(tokens, -1))
        return EnsembledCLIP(clip_model, layout, len(templates), self.cfg.MODEL.LOGIT_SCALE)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """CLIP with an ensemble of templates."""

    def templates(self):
        own = [] if self.cfg.DATASET.NAME == "ImageNet" else super().templates()
        return [*ENSEMBLE, *own]
