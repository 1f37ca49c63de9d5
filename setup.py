"""Package metadata; tool settings are in pyproject.toml."""

from setuptools import find_packages, setup

with open("README.md", encoding="utf-8") as readme:
    long_description = readme.read()

EXPORT = ["onnx>=1.18", "onnxscript>=0.5.4", "onnxruntime>=1.22"]
FEATURES = ["pyarrow>=17"]
KERAS = ["h5py>=3.10"]
APP = ["gradio>=6.31,<7"]  # theme, style and history are arguments of launch there
# Folders of the checkout that are part of the package when it is installed
FOLDERS = {"slowfast_uniformer.configs": "configs", "slowfast_uniformer.datasets": "datasets"}

setup(
    name="slowfast_uniformer",
    version="0.1.0",
    description="Train and test UniFormer video classifiers",
    long_description=long_description,
    long_description_content_type="text/markdown",
    author="The slowfast_uniformer authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    entry_points={"console_scripts": ["uniformer=slowfast_uniformer.cli.main:main"]},
    python_requires=">=3.11",
    packages=[*find_packages(include=["slowfast_uniformer", "slowfast_uniformer.*"]), *FOLDERS],
    package_dir=FOLDERS,
    package_data={
        "slowfast_uniformer": [f"**/*.{ending}" for ending in ("yaml", "json", "html", "css", "sbatch")],
        "slowfast_uniformer.configs": ["**/*.yaml"],
        "slowfast_uniformer.datasets": ["*.md", "labels/*.txt"],
    },
    install_requires=[
        "torch>=2.9,<2.15",
        "torchvision>=0.24,<0.30",
        "pytorchvideo==0.1.5",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.10",
        "yacs>=0.1.8",
        "simplejson>=3.19,<5",
        "av>=18,<19",
        "tensorboard>=2.18,<3",
        "timm>=1.0.20,<2",  # RandAugment
        "scipy>=1.11",  # exact tests of accuracy against chance; scikit-learn needs it, too
        "scikit-learn>=1.5",  # heads that are fitted to features; a second opinion on scores in tests
        "torchmetrics>=1.4,<2",  # confusion matrix
        "matplotlib>=3.8,<4",  # pictures in TensorBoard
        "jinja2>=3.1",  # pages of reports
        "tqdm>=4.66",  # progress bar
        "safetensors>=0.4.3",  # weight files without code in them
        "huggingface_hub>=1.0,<3",  # published weights (timm needs it, too)
        "filelock>=3.12",  # one process fetches weights while others wait (PyTorch needs it, too)
        "numpy>=1.26",
        "pillow>=10",
    ],
    extras_require={
        "dev": [
            "pytest>=8,<10",
            "pytest-xdist>=3.7",  # the tests on as many cores as there are
            "ruff>=0.6",
            "import-linter>=2",  # imports of the package point down (docs/architecture.md)
            "playwright>=1.50",  # drives an installed Chromium
            "wandb>=0.19,<1",
            "mlflow-skinny>=2.14,<4",
            "sphinx>=8.1,<10",  # the documentation site
            "myst-nb>=1.4",  # pages in Markdown and notebooks
            "nbclient>=0.10",  # runs the notebook
            "nbformat>=5.10",  # reads it
            "ipykernel>=6.29",  # its Python
            "furo>=2024.8.6",  # its theme: light and dark, for screens of any width
            "sphinx-copybutton>=0.5",  # copies a command
            *APP,
            *EXPORT,
            *FEATURES,
            *KERAS,
        ],
        "app": APP,  # uniformer app
        "completion": ["argcomplete>=3"],  # of commands and options by the shell
        "export": EXPORT,  # uniformer export --format onnx
        "features": FEATURES,  # uniformer features --output OUT.parquet
        "keras": KERAS,  # MODEL.INIT_FROM weights.h5
        "gdrive": ["gdown>=6.5,<7"],  # published weights that are on Google Drive only
        "wandb": ["wandb>=0.19,<1"],  # TRACKER wandb
        "mlflow": ["mlflow>=2.14,<4"],  # TRACKER mlflow; mlflow-skinny is enough for a server
        "torchcodec": ["torchcodec>=0.8"],  # DATA.DECODER torchcodec; needs FFmpeg's shared libraries besides
    },
    # The licence is named above: setuptools has deprecated its classifiers
    classifiers=[
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
