"""QMaPLe's prompts without the projections that compute them."""

from torch import Tensor

from qprompt.errors import UserError
from qprompt.prompt_files.format import PromptFile, StoredTensor
from qprompt.prompt_files.model import restore_learner
from qprompt.prompt_files.packing import stored_tensor
from qprompt.prompted_clip import Prompts
from qprompt.prompts.independent import DEEP
from qprompt.prompts.method import LEARNER
from qprompt.quantization.config import QuantConfig
from qprompt.quantization.fake_quantize import FakeQuantize


def project(file: PromptFile, bits: int = 32) -> dict[str, StoredTensor]:
    """Return the independent prompts (IVLP's) that MaPLe's amount to: its image prompts instead of the projections.

    Text prompts stay as they are stored. The result cannot be trained further as MaPLe's.

    Args:
        file: with prompts of MaPLe.
        bits: of the image prompts: 32 is exact, 16 rounds to half precision, 1 to 8 quantizes by K-Means.
    """
    method, learner = restore_learner(file)
    if method.key != "maple":
        raise UserError("it holds no prompts of MaPLe, so there is nothing to project")
    prompts: Prompts = learner()
    assert prompts.image is not None
    tensors = {name.removeprefix(LEARNER): stored for name, stored in file.tensors.items()}
    text, image = DEEP.format("text"), DEEP.format("image")
    result = {f"{LEARNER}ctx": tensors["ctx"]}
    for i in range(len(prompts.text_deep)):
        result[text.format(i + 1)] = tensors[f"compound_prompts_text.{i}"]
    names = ["image_encoder.VPT", *(image.format(i + 1) for i in range(len(prompts.image_deep)))]
    for name, value in zip(names, (prompts.image, *prompts.image_deep), strict=True):
        result[name] = _stored(name, value, bits)
    return result


def _stored(name: str, value: Tensor, bits: int) -> StoredTensor:
    if bits == 32:
        return StoredTensor(tuple(value.shape), "float32", 32, values=value)
    fake = FakeQuantize(value, QuantConfig(bits=bits))
    fake.fit(value)
    return stored_tensor(name, value, fake)
