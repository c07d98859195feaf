"""Package metadata. Tool settings (build system, ruff, pytest, mypy) live in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
# Folders of files that are not modules: setuptools warns about those that are not listed.
DATA = ["qprompt.assets", "qprompt.export.web", "qprompt.report.templates"]
# What the commands need of the checkout: copied into the package of a wheel (qprompt/runs/project.py finds it).
PROJECT = ["train.py", "trainers", "datasets", "configs"]
DOCS = ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"]


class BuildWithProject(build_py):
    """Copies the project into the package; an editable installation uses the checkout itself."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "qprompt", "project")
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        target.mkdir(parents=True)
        for name in PROJECT:
            if (HERE / name).is_file():
                shutil.copyfile(HERE / name, target / name)
            else:
                shutil.copytree(HERE / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


class SourceWithoutBytecode(sdist):
    """Leaves out bytecode. MANIFEST.in could too, but warns where there is none."""

    def make_distribution(self) -> None:
        self.filelist.files = [name for name in self.filelist.files if not name.endswith(".pyc")]
        super().make_distribution()


setup(
    name="qprompt",
    version="0.1.0",
    description="Quantized prompt learning for CLIP: QCoOp and QMaPLe (ECCV 2024)",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="QPrompt contributors",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["CLIP", "prompt learning", "quantization", "few-shot learning", "vision-language models"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *[f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)],
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["qprompt", "qprompt.*"]), *DATA],
    include_package_data=True,
    package_data={"qprompt": ["py.typed", "*.pyi"], **{folder: ["*"] for folder in DATA}},
    cmdclass={"build_py": BuildWithProject, "sdist": SourceWithoutBytecode},
    python_requires=">=3.10",
    # The oldest versions that were run (docs/internals/checkouts.md): users keep the torch of their checkout.
    # Dassl is not on the package index. It is found at run time (qprompt.engine) and not required here.
    install_requires=[
        "torch>=1.13",
        "torchvision>=0.14",
        "clip-anytorch>=2.5",
        "ftfy",
        "regex",
        "filelock>=3.30",
        "lazy_loader",
        "packaging",
        "yacs",
        "PyYAML",
        "jinja2",
        "numpy>=1.23",
        "scipy",
        "pillow>=9.5",
        "tqdm",
        "safetensors>=0.4",
        "tensorboard",
    ],
    extras_require={
        "plot": ["matplotlib"],
        "onnx": ["onnx", "onnxruntime", "onnxscript"],
        "openclip": ["open_clip_torch"],
        "hub": ["huggingface_hub"],
        "wandb": ["wandb"],
        "mlflow": ["mlflow"],
        "heif": ["pillow-heif"],
        "slurm": ["submitit"],
        "completion": ["shtab"],
        "docs": DOCS,
        "test": [
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "matplotlib",
            "pillow-heif",
            "ruff==0.17.5",
            "mypy==2.4.1",
            "import-linter",
            "setuptools>=77",
            "shtab",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "selenium",
            "huggingface_hub",
            "nbclient",
            "ipykernel",
            *DOCS,
        ],
    },
    entry_points={"console_scripts": ["qprompt = qprompt.__main__:main"]},
)
