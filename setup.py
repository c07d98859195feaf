"""Package metadata. Tool settings (build system, ruff, pytest, mypy) live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
# Folders of files that are not modules: setuptools warns about those that are not listed.
DATA = ["qprompt.assets", "qprompt.report.templates"]
DOCS = ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"]

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
        "heif": ["pillow-heif"],
        "slurm": ["submitit"],
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
            *DOCS,
        ],
    },
    entry_points={"console_scripts": ["qprompt = qprompt.__main__:main"]},
)
