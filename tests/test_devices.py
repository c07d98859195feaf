"""GPUs: which are used, what is chosen for them and kept, switches of arithmetic, and errors as one line."""

import json
import os
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from toy import toy_cfg, toy_trainer

import trainers.coop  # noqa: F401
from qprompt.__main__ import main as command
from qprompt.errors import UserError
from qprompt.io.device_errors import device_errors_named
from qprompt.prompt_files import packing
from qprompt.prompt_files.classifier import Classifier, load_classifier
from qprompt.quantization import kmeans, quantizers
from qprompt.quantization.api import quantize_
from qprompt.quantization.config import QuantConfig
from qprompt.runs.choices import choose_once
from qprompt.runs.devices import check_device, check_precision
from qprompt.runs.environment import decides_bits
from qprompt.training import augmentation, feature_caching
from qprompt.training.arithmetic import arithmetic, in_effect
from qprompt.training.fit import fit
from qprompt.training.text_memory import less_memory, text_memory_bytes

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
CONTEXT = ("TRAINER.COOP.N_CTX", 4)
RANDOM = ("INPUT.TRANSFORMS", "['random_resized_crop', 'random_flip', 'normalize']")


@pytest.fixture
def apples(monkeypatch):
    """A machine with Apple's GPU."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.mark.parametrize("device", ["mps", "mps:0", "xpu", torch.device("mps")])
def test_other_gpus_are_refused_by_name(device, apples, clip_file, tmp_path, capsys):
    with pytest.raises(UserError, match="GPU, is not supported: type one of cpu") as wanted:
        check_device(device)
    prompt, picture = tmp_path / "p.qprompt", tmp_path / "x.png"
    model = torch.nn.Linear(4, 4)
    quantize_(model, QuantConfig(), names=["weight"])
    packing.save(model, prompt)
    Image.new("RGB", (8, 8)).save(picture)
    for give in (
        lambda: load_classifier(prompt, ["a", "b"], device=device),
        lambda: Classifier.to(SimpleNamespace(model=model), device),
    ):
        with pytest.raises(UserError) as error:
            give()
        assert str(error.value) == str(wanted.value)
    for words in (["predict", str(prompt), str(picture)], ["train", str(tmp_path)]):
        assert command([*words, "--device", str(device)]) == 2
        error = capsys.readouterr().err
        assert str(device) in error and error.count("\n") == 1
    with pytest.raises(UserError, match="expected cpu or cuda"):
        fit(str(tmp_path), device=str(device))


def test_a_gpu_that_is_not_there_is_refused_before_training(tmp_path, capsys, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "pictures").mkdir()
    for where in ({"device": "cuda"}, {"device": "cuda:1"}):
        with pytest.raises(UserError, match=r"device 'cuda' cannot be used \(.*type one of cpu|chooses a GPU"):
            fit(str(tmp_path / "pictures"), backbone="tiny", out=tmp_path / "out", **where)
    assert not (tmp_path / "out").exists()


def test_a_run_says_that_apples_gpu_is_not_used(apples, clip_file, tmp_path, capsys):
    trainer = toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT)
    assert trainer.device == CPU
    assert "Apple's GPU (mps) is not supported: this run computes on the CPU" in capsys.readouterr().out


def test_old_gpus_have_no_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(UserError, match=r"8\.0 or newer; Tesla T4 has 7\.5: type KEY fp16, or amp or fp32 in its"):
        check_precision(CUDA, "bf16", "KEY")
    check_precision(CUDA, "fp16", "KEY")
    check_precision(CPU, "bf16", "KEY")
    monkeypatch.setattr(torch.version, "hip", "6.4")  # AMD
    check_precision(CUDA, "bf16", "KEY")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0",
            r"GPU is full \(tried to get 2.00 GiB more\): X",
        ),
        ("HIP out of memory. Tried to allocate 20.00 MiB.", r"of the GPU is full \(tried to get 20.00 MiB more\): X\."),
        ("CUDA error: out of memory\nCUDA kernel errors might be ...", r"of the GPU is full: X\."),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", r"of the GPU is full: X\."),
        (
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
            r"of the host is full: X\.",
        ),
        (
            "CUDA error: no kernel image is available for execution on the device\nCUDA",
            "no kernels for .*USE_CUDA",
        ),
        ("HIP error: invalid device function", "has no kernels for this GPU"),
        (
            "cumsum_cuda_kernel does not have a deterministic implementation, but",
            "cumsum.*leave out --deterministic",
        ),
        ("\"addmm_impl_cpu_\" not implemented for 'Half'", "cannot compute addmm_impl_cpu_ in fp16 on this device: Y"),
    ],
)
def test_errors_of_devices_are_one_line(text, words):
    with pytest.raises(UserError, match=words) as found, device_errors_named(lambda: "X", "Y"):
        raise RuntimeError(text)
    assert "\n" not in str(found.value)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), device_errors_named(lambda: "X"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_what_is_typed_for_less_memory_is_accepted(clip_file, tmp_path):
    advice = less_memory(toy_cfg(tmp_path, clip_file, "CoOp", *CONTEXT))
    assert "TEXT_MEMORY_MB 500 (the same results)" in advice and "TRAIN_X.BATCH_SIZE 3" in advice
    words = (
        advice.removeprefix("type ").replace(" (the same results)", "").replace(" or ", " ").replace(",", "").split()
    )
    cfg = toy_cfg(tmp_path, clip_file, "CoOp", *CONTEXT, *words)
    assert (cfg.TEXT_MEMORY_MB, cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.DATALOADER.TEST.BATCH_SIZE) == (500, 3, 2)


def test_what_is_typed_for_less_memory_has_an_effect(clip_file, tmp_path):
    cfg = toy_cfg(tmp_path, clip_file, "CoOp", *CONTEXT, "DATALOADER.TEST.BATCH_SIZE", 8)
    assert less_memory(cfg, trains=False) == "type DATALOADER.TEST.BATCH_SIZE 4"
    cfg = toy_cfg(tmp_path, clip_file, "CoOp", *CONTEXT, "DATALOADER.TEST.BATCH_SIZE", 1)
    assert less_memory(cfg, trains=False) == "type USE_CUDA False"
    (tmp_path / "config.json").write_text('{"chosen": {"text_memory_bytes": 300000000}}')
    cfg = toy_cfg(tmp_path, clip_file, "CoOp", *CONTEXT, "OUTPUT_DIR", tmp_path)
    assert "TEXT_MEMORY_MB 150 " in less_memory(cfg)  # of a GPU that others use too
    cfg = toy_cfg(tmp_path, clip_file, "CoOp", *CONTEXT, "CUDA_GRAPH", True)
    assert less_memory(cfg).startswith("type CUDA_GRAPH False, ")
    assert "TEXT_MEMORY_MB" not in less_memory(cfg)


def test_switches_are_set_recorded_and_set_back(clip_file, tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = toy_cfg(tmp_path, clip_file, "CoOp", "DETERMINISTIC", True, "TF32", "always", "USE_CUDA", True)
    before = in_effect()
    assert not before["deterministic"]
    with arithmetic(cfg) as found:
        assert torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        wanted = {"deterministic": True, "tf32_matmul": True, "tf32_convolution": True, "cudnn_benchmark": False}
        assert found == in_effect() == wanted
    assert in_effect() == before and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert not torch.backends.cudnn.deterministic
    cfg = toy_cfg(tmp_path, clip_file, "CoOp", "TF32", "never", "USE_CUDA", True)
    with arithmetic(cfg) as found:
        assert found["cudnn_benchmark"] and not found["tf32_matmul"] and not found["tf32_convolution"]
    assert in_effect() == before
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    cfg = toy_cfg(tmp_path, clip_file, "CoOp", "DETERMINISTIC", True)
    with pytest.raises(UserError, match="it is ':0:0': type 'unset"), arithmetic(cfg):
        pass


def test_choices_are_kept_in_the_record_of_the_run(tmp_path):
    valid = ("cpu", "device").__contains__
    assert choose_once(str(tmp_path), "augment", lambda: "cpu", valid) == "cpu"  # nobody's folder: nothing is kept
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"schema": 1, "settings": {}}))
    assert choose_once(str(tmp_path), "augment", lambda: "device", valid) == "device"
    assert choose_once(str(tmp_path), "augment", lambda: "cpu", valid) == "device"
    assert choose_once(str(tmp_path), "bytes", lambda: 7, lambda value: value > 0) == 7
    assert json.loads(config.read_text()) == {"schema": 1, "settings": {}, "chosen": {"augment": "device", "bytes": 7}}
    (tmp_path / "other").mkdir()
    assert choose_once(str(tmp_path / "other"), "augment", lambda: "cpu", valid, resume=str(tmp_path)) == "device"
    for damaged in ([], "device", {"augment": "gpu"}, {"augment": []}):
        config.write_text(json.dumps({"schema": 1, "chosen": damaged}))
        assert choose_once(str(tmp_path), "augment", lambda: "cpu", valid) == "cpu"


@pytest.fixture
def place(monkeypatch, clip_file, tmp_path):
    """place(*options, equal=True): where the images are transformed for a GPU whose pixels are equal, or not."""

    def placed(*options, device=CUDA, equal=True):
        compare = augmentation.pixels_are_equal
        with monkeypatch.context() as patch:
            patch.setattr(augmentation, "pixels_are_equal", lambda t, d: compare(t, CPU) and equal)
            trainer = toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT, *RANDOM, "INPUT.AUGMENT", "cpu")
            loaders = trainer.dm.train_loader_x, trainer.dm.test_loader, None
            cfg = toy_cfg(tmp_path, clip_file, "CoOp", *RANDOM, "OUTPUT_DIR", tmp_path / "out", *options)
            where = augmentation.place_transforms_(cfg, loaders, device)
            kinds = {isinstance(loader.dataset.transform, augmentation.CropTransform) for loader in loaders[:2]}
            assert kinds == {where == "device"}
            return where

    return placed


def test_a_gpu_transforms_images_where_its_pixels_are_pillows(place, tmp_path, monkeypatch, capsys):
    assert place() == "device" and place(equal=False) == "cpu" and place(device=CPU) == "cpu"
    said = capsys.readouterr().out
    assert "auto: device (its pixels equal Pillow's" in said and "auto: cpu (on this GPU the pixels are not" in said
    monkeypatch.setattr(augmentation, "check_one_view", lambda data: (_ for _ in ()).throw(UserError("no: type x")))
    assert place() == "cpu"
    assert "auto: cpu (no)" in capsys.readouterr().out
    assert place("INPUT.AUGMENT", "device") == "device"


def test_a_resumed_run_transforms_images_where_it_did(place, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("{}")
    assert place() == "device" and place(device=CPU) == "device"
    assert "auto: device (as when this run began)" in capsys.readouterr().out
    assert place("INPUT.AUGMENT", "cpu") == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("part", ["train", "test"])
def test_pixels_on_a_gpu_equal_pillows(part, clip_file, tmp_path):
    trainer = toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT, *RANDOM, "INPUT.AUGMENT", "cpu")
    loader = trainer.dm.train_loader_x if part == "train" else trainer.dm.test_loader
    assert augmentation.pixels_are_equal(loader.dataset.transform, CUDA)


def test_pixels_that_differ_are_seen(clip_file, tmp_path, monkeypatch):
    trainer = toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT, *RANDOM, "INPUT.AUGMENT", "cpu")
    transform, state = trainer.dm.train_loader_x.dataset.transform, torch.get_rng_state()
    assert augmentation.pixels_are_equal(transform, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    to = augmentation.ImageBatch.to
    monkeypatch.setattr(augmentation.ImageBatch, "to", lambda batch, device: to(batch, device) + 1e-6)
    assert not augmentation.pixels_are_equal(transform, CPU)


def test_features_are_kept_for_one_way_of_computing(clip_file, tmp_path, monkeypatch):
    def encoded(**more):
        trainer = toy_trainer(tmp_path, clip_file, "CoOp", *CONTEXT, **more)
        seen, encode = [], trainer.model.image_features
        trainer.model.image_features = lambda image, prompts: seen.append(1) or encode(image, prompts)
        next(iter(trainer.test_loader))
        return len(seen)

    assert encoded() and not encoded()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert encoded()
    finally:
        torch.set_num_threads(threads)
    assert not encoded()
    monkeypatch.setattr(feature_caching, "decides_bits", lambda device: ("another GPU",))
    assert encoded()


def test_what_decides_bits_on_a_gpu(monkeypatch):
    gpu = {"name": "NVIDIA A100", "capability": (8, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: gpu["name"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: gpu["capability"])
    found = [decides_bits(CUDA)]
    gpu["name"] = "NVIDIA H100"
    found.append(decides_bits(CUDA))
    for owner, name, value in (
        (torch.version, "cuda", "12.0"),
        (torch.version, "hip", "6.4"),
        (torch.backends.cudnn, "version", lambda: 90000),
    ):
        monkeypatch.setattr(owner, name, value)
        found.append(decides_bits(CUDA))
    for flags in ((torch.backends.cuda.matmul, "allow_tf32"), (torch.backends.cudnn, "allow_tf32")):
        before = getattr(*flags)
        setattr(*flags, not before)
        found.append(decides_bits(CUDA))
        setattr(*flags, before)
    assert len(set(found)) == len(found)


def test_the_bound_of_text_memory_is_kept(clip_file, tmp_path, monkeypatch):
    free = [10_000, 4_000]
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free.pop(0), 80_000))
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "config.json").write_text("{}")
    cfg = toy_cfg(tmp_path, clip_file, "CoOp", *CONTEXT)
    assert text_memory_bytes(cfg, CUDA) == text_memory_bytes(cfg, CUDA) == 5_000 and len(free) == 1
    repeatable = toy_cfg(tmp_path, clip_file, "CoOp", *CONTEXT, "DETERMINISTIC", True, "OUTPUT_DIR", tmp_path / "x")
    assert text_memory_bytes(repeatable, CUDA) == 40_000
    assert text_memory_bytes(toy_cfg(tmp_path, clip_file, "CoOp", "TEXT_MEMORY_MB", 3), CUDA) == 3_000_000
    assert text_memory_bytes(cfg, CPU) == 0


def test_k_means_runs_on_the_host_where_the_device_cannot(monkeypatch):
    assert kmeans.needs_host(torch.device("mps")) and kmeans.needs_host(torch.device("xpu"))
    assert not kmeans.needs_host(CPU) and not kmeans.needs_host(CUDA)
    torch.use_deterministic_algorithms(True)
    try:
        assert kmeans.needs_host(CUDA) and not kmeans.needs_host(CPU)
    finally:
        torch.use_deterministic_algorithms(False)
    values = torch.randn(2, 100)
    wanted = kmeans.kmeans(values, 4), quantizers.kmeans(values, 4)
    monkeypatch.setattr(kmeans, "needs_host", lambda device: True)
    moved = []

    class OnDevice(torch.Tensor):
        def cpu(self):
            moved.append(tuple(self.shape))
            return self.as_subclass(torch.Tensor)

    on_device = values.as_subclass(OnDevice)
    assert all(map(torch.equal, wanted, (kmeans.kmeans(on_device, 4), quantizers.kmeans(on_device, 4))))
    assert moved == [(2, 100)] * 2


@pytest.mark.gpu
def test_k_means_repeats_its_bits_on_a_gpu():
    values = torch.randn(2, 1000, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        found = kmeans.kmeans(values, 16)
    finally:
        torch.use_deterministic_algorithms(False)
    assert found.device == values.device and torch.equal(found.cpu(), kmeans.kmeans(values.cpu(), 16))


@pytest.mark.bundled_only
def test_checkpoints_are_loaded_to_the_cpu(tmp_path, monkeypatch):
    from dassl.utils import checkpoints

    checkpoints.save_checkpoint({"state_dict": {}, "epoch": 1}, str(tmp_path))
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(checkpoints, "read_torch_file", lambda path, map_location: asked.append(map_location))
    checkpoints.load_checkpoint(str(tmp_path / "model.pth.tar-1"))
    assert asked == ["cpu"]
