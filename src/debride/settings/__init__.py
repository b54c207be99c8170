"""The settings of each command: a field is a flag, a key of ``--config`` and a line of --help.

The resolved settings are written into ``run.json`` beside the results.
"""

from debride.settings.common import DataSettings, EvidenceSettings, NetworkSettings, OutputSettings
from debride.settings.comparing import CompareSettings
from debride.settings.explaining import ExplainSettings
from debride.settings.exporting import ExportSettings
from debride.settings.pruning import (
    ApplySettings,
    DoctorSettings,
    InspectSettings,
    PruneSettings,
)
from debride.settings.reports import DemoSettings, EvaluateSettings, ReportSettings
from debride.settings.training import TrainSettings

__all__ = [
    "ApplySettings",
    "CompareSettings",
    "DataSettings",
    "DemoSettings",
    "DoctorSettings",
    "EvaluateSettings",
    "EvidenceSettings",
    "ExplainSettings",
    "ExportSettings",
    "InspectSettings",
    "NetworkSettings",
    "OutputSettings",
    "PruneSettings",
    "ReportSettings",
    "TrainSettings",
]
