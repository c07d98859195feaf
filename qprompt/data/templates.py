"""Zero-shot prompt templates of each data set: CoOp's single one, and CLIP's ImageNet ensemble selection."""

from qprompt.errors import UserError

DEFAULT = "a photo of a {}."

# Where the data set's own words help; Zhou et al., 2022 (CoOp), following Radford et al., 2021 (CLIP).
_OWN = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
}

# The seven of CLIP's 80 ImageNet templates that its authors found by forward selection.
IMAGENET_SELECT = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


def template(dataset: str, override: str = "") -> str:
    """The single template of a data set by registry name; any other name gets the default one.

    `override` (config key DATASET.TEMPLATE) replaces it; it must hold exactly one ``{}``.
    """
    if override:
        if override.count("{}") != 1 or override.replace("{}", "").count("{") + override.count("}") != 1:
            raise UserError(
                f"DATASET.TEMPLATE {override!r} needs exactly one {{}} where the class name goes: 'a photo of a {{}}.'"
            )
        return override
    return _OWN.get(dataset, DEFAULT)


def ensemble(dataset: str, override: str = "") -> list[str]:
    """The templates whose text features are averaged: the selection, and the data set's own (but for ImageNet)."""
    return [*IMAGENET_SELECT, *([] if dataset == "ImageNet" and not override else [template(dataset, override)])]


def prompts(classnames: list[str], one_template: str) -> list[str]:
    """One prompt a class; an underscore in a class name becomes a space."""
    return [one_template.format(name.replace("_", " ")) for name in classnames]
