"""imagebeam as a library: Beam transforms that call Gemini for images, and the records that pass between them.

A pipeline with its own source and sink makes a :class:`Unit` per image, packs the units, and calls the model; every
unit has one :class:`Outcome`, with an answer or the reason that there is none::

    import apache_beam as beam
    from imagebeam.transforms import CallModel, EngineSettings, PackUnits, Unit, load_task

    settings = EngineSettings.for_task(load_task("describe"), project="my-project")
    with beam.Pipeline() as pipeline:
        outcomes = (
            pipeline
            | beam.Create(["gs://my-bucket/a.jpg", "gs://my-bucket/b.jpg"])
            | beam.Map(Unit.from_uri)
            | PackUnits()
            | CallModel(settings)
        )

``StartRun``, ``ReadUnits``, ``CallModel`` and ``FinishRun`` are the steps of ``imagebeam classify``: they read a
BigQuery table, record outcomes in BigQuery and reconcile the counts. ``StartRun``, ``BuildBatchRequests`` and
``CollectBatch`` do the same with batch jobs. Their :class:`RunSettings` come from ``imagebeam.pipeline.prepare``, which
takes the flags of ``imagebeam classify`` as keyword arguments.

Names are imported on first use: importing this package imports neither Beam nor a Google client.
"""

from typing import TYPE_CHECKING

from imagebeam.transforms.core.lazy import lazy_exports

if TYPE_CHECKING:
    from imagebeam.transforms.batch_shards import BatchSettings
    from imagebeam.transforms.build_batch_requests import BuildBatchRequests
    from imagebeam.transforms.call_model import CallModel
    from imagebeam.transforms.collect_batch import CollectBatch
    from imagebeam.transforms.core.counts import OutcomeCounts, SourceCounts
    from imagebeam.transforms.core.errors import ImagebeamError, ReconciliationError, SystemicError, UserError
    from imagebeam.transforms.core.records import (
        Answer,
        Image,
        Lane,
        Outcome,
        Status,
        Transport,
        Unit,
        UnitKind,
        Usage,
    )
    from imagebeam.transforms.core.unit_batch import UnitBatch
    from imagebeam.transforms.engine.settings import CallSettings, EngineSettings
    from imagebeam.transforms.finish_run import FinishRun
    from imagebeam.transforms.pack_units import PackUnits
    from imagebeam.transforms.read_units import ReadUnits
    from imagebeam.transforms.run_settings import RunSettings
    from imagebeam.transforms.start_run import StartRun
    from imagebeam.transforms.tasks.catalog import load_models_file, load_task
    from imagebeam.transforms.tasks.embedding import EmbedTask, embed_task
    from imagebeam.transforms.tasks.task import Task, parse_task
else:  # a type checker would accept any name of a module that has __getattr__
    __getattr__ = lazy_exports(
        __name__,
        {
            "batch_shards": ("BatchSettings",),
            "build_batch_requests": ("BuildBatchRequests",),
            "call_model": ("CallModel",),
            "collect_batch": ("CollectBatch",),
            "core.counts": ("OutcomeCounts", "SourceCounts"),
            "core.errors": ("ImagebeamError", "ReconciliationError", "SystemicError", "UserError"),
            "core.records": (
                *("Answer", "Image", "Lane", "Outcome", "Status", "Transport", "Unit", "UnitKind", "Usage"),
            ),
            "core.unit_batch": ("UnitBatch",),
            "engine.settings": ("CallSettings", "EngineSettings"),
            "finish_run": ("FinishRun",),
            "pack_units": ("PackUnits",),
            "read_units": ("ReadUnits",),
            "run_settings": ("RunSettings",),
            "start_run": ("StartRun",),
            "tasks.catalog": ("load_models_file", "load_task"),
            "tasks.embedding": ("EmbedTask", "embed_task"),
            "tasks.task": ("Task", "parse_task"),
        },
    )

__all__ = [
    "Answer",
    "BatchSettings",
    "BuildBatchRequests",
    "CallModel",
    "CallSettings",
    "CollectBatch",
    "EmbedTask",
    "EngineSettings",
    "FinishRun",
    "Image",
    "ImagebeamError",
    "Lane",
    "Outcome",
    "OutcomeCounts",
    "PackUnits",
    "ReadUnits",
    "ReconciliationError",
    "RunSettings",
    "SourceCounts",
    "StartRun",
    "Status",
    "SystemicError",
    "Task",
    "Transport",
    "Unit",
    "UnitBatch",
    "UnitKind",
    "Usage",
    "UserError",
    "embed_task",
    "load_models_file",
    "load_task",
    "parse_task",
]
