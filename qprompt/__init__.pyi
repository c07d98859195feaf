from .errors import UserError as UserError
from .prompt_files.classifier import Classifier as Classifier
from .prompt_files.classifier import Prediction as Prediction
from .prompt_files.classifier import load_classifier as load_classifier
from .prompt_files.inspection import inspect as inspect
from .prompt_files.loading import load_ as load_
from .prompt_files.packing import load as load
from .prompt_files.packing import pack as pack
from .prompt_files.packing import save as save
from .prompt_files.packing import unpack as unpack
from .prompt_files.sharing import push_to_hub as push_to_hub
from .quantization.api import dequantize_ as dequantize_
from .quantization.api import finish_ as finish_
from .quantization.api import quantize_ as quantize_
from .quantization.api import refresh_ as refresh_
from .quantization.config import QuantConfig as QuantConfig
from .quantization.kmeans import kmeans as kmeans
from .quantization.noise import add_noise_ as add_noise_
from .quantization.recorder import Recorder as Recorder
from .quantization.state_dicts import load_state_dict_ as load_state_dict_
from .quantization.state_dicts import plain_state_dict as plain_state_dict
from .training.defaults import add_quant_cfg as add_quant_cfg
from .training.fit import fit as fit
from .training.quantized import QuantizedPrompts as QuantizedPrompts

__version__: str
