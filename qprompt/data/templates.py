"""Zero-shot prompt templates: CoOp's template of each data set and CLIP's ensemble for ImageNet."""

from qprompt.errors import UserError

DEFAULT = "a photo of a {}."

# Templates specific to a data set: Zhou et al., 2022 (CoOp), after Radford et al., 2021 (CLIP).
_BY_DATASET = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
}

# Seven of CLIP's 80 ImageNet templates, chosen by its authors by forward selection.
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
    """Return the template of a data set.

    Args:
        dataset: The name in the registry; other names have the template DEFAULT.
        override: The config key DATASET.TEMPLATE; if not empty, it is the template.

    Raises:
        UserError: `override` does not have exactly one ``{}``.
    """
    if override:
        if override.count("{}") != 1 or override.replace("{}", "").count("{") + override.count("}") != 1:
            raise UserError(
                f"DATASET.TEMPLATE {override!r} needs exactly one {{}} for the class name, such as 'a photo of a {{}}.'"
            )
        return override
    return _BY_DATASET.get(dataset, DEFAULT)


def ensemble(dataset: str, override: str = "") -> list[str]:
    """Return the templates to average: CLIP's selection and, except for ImageNet, the template of the data set."""
    return [*IMAGENET_SELECT, *([] if dataset == "ImageNet" and not override else [template(dataset, override)])]


def prompts(classnames: list[str], one_template: str) -> list[str]:
    """Return one prompt per class; underscores in class names become spaces."""
    return [one_template.format(name.replace("_", " ")) for name in classnames]
