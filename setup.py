"""Packaging of imagebeam: the top-level directories become one namespace package.

``pipeline/``, ``transforms/`` and ``emulators/`` are installed as ``imagebeam.pipeline``, ``imagebeam.transforms`` and
``imagebeam.emulators``: drop ``imagebeam.`` to get the path. Where ``emulators/`` is left out, as in the image for
Dataflow, the package is built without it. All metadata is here, so that ``--setup_file=./setup.py`` builds on Dataflow
with any setuptools.
"""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "imagebeam"
HERE = Path(__file__).parent
ROOTS = tuple(root for root in ("pipeline", "transforms", "emulators") if (HERE / root).is_dir())
LOCAL = "emulators" in ROOTS

found = find_packages(include=[pattern for root in ROOTS for pattern in (root, f"{root}.*")])

setup(
    name=NAME,
    version="0.1.0",
    description="Run Gemini on every image of a BigQuery table, exactly once, at the rate that your quota allows.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The imagebeam authors",
    python_requires=">=3.11",
    packages=[f"{NAME}.{package}" for package in found],
    package_dir={f"{NAME}.{root}": root for root in ROOTS},
    package_data={
        f"{NAME}.pipeline": ["py.typed"],
        f"{NAME}.transforms": ["py.typed"],
        f"{NAME}.transforms.tasks": ["data/*.yaml", "data/tasks/*.yaml"],
        **({f"{NAME}.emulators": ["py.typed"], f"{NAME}.emulators.sample_data": ["photos/*"]} if LOCAL else {}),
    },
    include_package_data=False,
    install_requires=[
        "apache-beam[gcp]>=2.77,<2.78",  # the pipeline; a minor of Beam moves worker contracts
        "google-genai>=2.34,<3",  # Gemini, online
        "google-cloud-bigquery>=3.47,<4",  # observations in, outcomes out
        "google-cloud-storage>=3.1,<4",  # images, claims, run directories
        "google-auth>=2.40,<3",  # Vertex REST calls that google-genai cannot make
        "aiohttp>=3.12,<4",  # the engine's one connection pool under google-genai
        "pyarrow>=16,<26",  # Parquet files of imagebeam export; Beam depends on it and decides the version
        "tenacity>=9.1,<10",  # waits of the retry policy
        "orjson>=3.10,<4",  # request and answer bodies, packed groups
        "PyYAML>=6.0.2,<7",  # tasks, models, imagebeam.yaml
        "click>=8.2,<9",  # command line: dispatch, parsing, help, shell completion
        "rich>=14,<16",  # progress and tables on a terminal
        "pydantic>=2.10,<3",  # what a batch run must remember, as JSON and back
        "pillow>=11,<13",  # crop, downscale and the check that bytes are an image
    ],
    extras_require={
        "local": [
            "duckdb>=2,<3",  # engine of the local BigQuery
            "sqlglot>=30.30,<31",  # its SQL translation
            "numpy>=2,<3",  # the local model looks at pixels
            "shapely>=2.1,<3",  # its geography: polygons
            "pytz>=2024.1,<2027",  # TIMESTAMP values out of DuckDB
        ],
        "pandas": [
            "pandas>=2.2,<2.4",  # data frames of results; Beam fails to start in a notebook with newer ones
        ],
        "dev": [
            "build>=1.2,<2",
            "hypothesis>=6.130,<7",
            "import-linter>=2.5,<3",
            "ipykernel>=7,<8",  # the example notebook runs in a test
            "mypy>=2.4,<3",
            "nbclient>=0.10,<1",
            "nbformat>=5.10,<6",
            "pandas>=2.2,<2.4",
            "pytest>=9,<10",
            "pytest-timeout>=2.4,<3",
            "pytest-xdist>=3.8,<4",
            "ruff>=0.17,<0.18",
            "setuptools>=77,<85",  # the packaging tests build without isolation, and older ones make no wheels
            "types-PyYAML>=6,<7",
            "uv>=0.13,<0.14",  # make installs with it
        ],
    },
    entry_points={
        "console_scripts": ["imagebeam = imagebeam.pipeline.cli.main:main"],
        # Commands that live outside the production packages: the command line finds them here, by name.
        "imagebeam.commands": ["local = imagebeam.emulators.cli:main"] if LOCAL else [],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Typing :: Typed",
    ],
)
