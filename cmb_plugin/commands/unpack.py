"""``nndet_unpack``: kept so that nnDetection's scripts run unchanged."""

from __future__ import annotations

from collections.abc import Sequence

from .cli import command, parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Accepted for nnDetection's scripts; does nothing, because prepared cases are read compressed.

    Examples:
        nndet_unpack ${det_data}/Task101_CMB/preprocessed/D3CMB_3d/imagesTr 6
    """
    arguments = parser(main.__doc__)
    arguments.add_argument("path", help="folder of prepared cases")
    arguments.add_argument("num_processes", type=int, help="ignored")
    arguments.parse_args(argv)
    print("nndet_unpack is not needed: prepared cases are stored as blosc2 and read in place. Nothing was done.")
    return 0
