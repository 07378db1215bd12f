"""The physics of synthetic susceptibility scans on real anatomy: tissue, sources, dipole field, signal, images."""

from .case import PhantomCase, PhantomConfig, is_healthy, make_case
from .example import ExampleOptions, ExampleReport, ExampleTask
from .followup import Visit, VisitRow, make_visit, write_visits
from .into import PlacedCase, place_lesions
from .measured import MeasuredScan
from .protocols import MODALITIES, PROTOCOLS, Protocol, resolve_modalities, resolve_protocols

__all__ = [
    "MODALITIES",
    "PROTOCOLS",
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
    "is_healthy",
    "make_case",
    "make_visit",
    "place_lesions",
    "resolve_modalities",
    "resolve_protocols",
    "write_visits",
]
