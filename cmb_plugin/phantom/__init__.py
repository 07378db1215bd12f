"""The physics of synthetic susceptibility scans on real anatomy: tissue, sources, dipole field, signal, images."""

from .case import PhantomCase, PhantomConfig, healthy_cases, make_case
from .example import ExampleOptions, ExampleReport, ExampleTask
from .followup import Visit, VisitRow, make_visit, write_visits
from .into import PlacedCase, place_lesions
from .labelled import AnatomyFiles, read_table
from .measured import MeasuredScan
from .protocols import DRAWN, MODALITIES, PROTOCOLS, Protocol, resolve_modalities, resolve_protocols
from .several import make_scans

__all__ = [
    "DRAWN",
    "MODALITIES",
    "PROTOCOLS",
    "AnatomyFiles",
    "ExampleOptions",
    "ExampleReport",
    "ExampleTask",
    "MeasuredScan",
    "PhantomCase",
    "PhantomConfig",
    "PlacedCase",
    "Protocol",
    "Visit",
    "VisitRow",
    "healthy_cases",
    "make_case",
    "make_scans",
    "make_visit",
    "place_lesions",
    "read_table",
    "resolve_modalities",
    "resolve_protocols",
    "write_visits",
]
