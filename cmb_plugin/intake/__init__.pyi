from .listing import InputOptions, is_task_named, list_input
from .scan_table import unusable
from .selection import Channels, InputCase, Intake
from .table import COLUMNS, PASSED_OVER, TAKEN, UNUSABLE, InputRow, count_text, table_text, write_inputs
from .volumes import Volume, safe_case

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
    "safe_case",
    "table_text",
    "unusable",
    "write_inputs",
]
