"""The physics of synthetic susceptibility scans on real anatomy: tissue, sources, dipole field, signal, images."""

from .case import PhantomCase, PhantomConfig, is_healthy, make_case
from .example import ExampleOptions, ExampleReport, ExampleTask
from .protocols import MODALITIES, PROTOCOLS, Protocol, resolve_modalities, resolve_protocols

__all__ = [
    "MODALITIES",
    "PROTOCOLS",
    "ExampleOptions",
    "ExampleReport",
    "ExampleTask",
    "PhantomCase",
    "PhantomConfig",
    "Protocol",
    "is_healthy",
    "make_case",
    "resolve_modalities",
    "resolve_protocols",
]
