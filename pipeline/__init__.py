"""imagebeam as Python functions: classify, embed, search and plan, with the flags of the commands as arguments::

    from imagebeam.pipeline import classify

    result = classify(task="describe", source="my_dataset.images", results="answers", limit=10)
    result.counts.ok, result.cost_usd
    result.to_dataframe()

The other packages are the command line: settings, and a module per command. Names are imported on first use, so that
commands start quickly.
"""  # noqa: D415 - ends with an example

from typing import TYPE_CHECKING

from imagebeam.transforms.core.lazy import lazy_exports

if TYPE_CHECKING:
    from imagebeam.pipeline.api.functions import classify, embed, plan, prepare, search
    from imagebeam.pipeline.planning.text import Plan
    from imagebeam.pipeline.results.run_result import RunResult
    from imagebeam.pipeline.similarity.result import SearchResult
    from imagebeam.pipeline.version import __version__
else:  # a type checker would accept any name of a module that has __getattr__
    __getattr__ = lazy_exports(
        __name__,
        {
            "api.functions": ("classify", "embed", "plan", "prepare", "search"),
            "planning.text": ("Plan",),
            "results.run_result": ("RunResult",),
            "similarity.result": ("SearchResult",),
            "version": ("__version__",),
        },
    )

__all__ = [
    "Plan",
    "RunResult",
    "SearchResult",
    "__version__",
    "classify",
    "embed",
    "plan",
    "prepare",
    "search",
]
