from .listing import InputOptions, is_task_named, list_input
from .selection import Channels, InputCase, Intake
from .table import COLUMNS, PASSED_OVER, TAKEN, UNUSABLE, InputRow, count_text, table_text, write_inputs
from .volumes import Volume

__all__ = [
    "COLUMNS",
    "PASSED_OVER",
    "TAKEN",
    "UNUSABLE",
    "Channels",
    "InputCase",
    "InputOptions",
    "InputRow",
    "Intake",
    "Volume",
    "count_text",
    "is_task_named",
    "list_input",
    "table_text",
    "write_inputs",
]
