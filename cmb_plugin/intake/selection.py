"""Which volumes become cases: each channel of the model gets the volume that shows it best, the others a reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os.path import commonpath
from pathlib import Path

from cmb_plugin.dataset import Case
from cmb_plugin.errors import UserError
from cmb_plugin.images.contrast import (
    ANATOMY,
    MAGNITUDE,
    MAP,
    MINIP,
    PHASE,
    QSM,
    SWI,
    UNKNOWN,
    WHY_NOT,
    contrast_of_name,
)
from cmb_plugin.preparation import ScanSource

from .naming import own_names
from .table import PASSED_OVER, TAKEN, UNUSABLE, InputRow
from .volumes import Volume

SHORTEST_ECHO_MS = 8.0  # of a gradient echo that is weighted by T2*; angiograms and T1 have less
_BEST_ECHO_MS_T = 60.0  # 40 ms at 1.5 T, 20 ms at 3 T, as susceptibility weighted protocols have it
TURNED = "its sign is turned, so that iron is dark in it as in the model's scans"
_ANATOMY_WORDS = ("t1", "flair", "pd", "t2")

_WANTED: dict[str, tuple[str, ...]] = {
    SWI: (SWI, MAGNITUDE, UNKNOWN),
    MAGNITUDE: (MAGNITUDE, SWI, UNKNOWN),
    UNKNOWN: (SWI, MAGNITUDE, UNKNOWN),
    **{contrast: (contrast,) for contrast in (PHASE, QSM, MINIP, MAP, ANATOMY)},
}


@dataclass(frozen=True)
class Channels:
    """What a model sees.

    Attributes:
        names: of its modalities.
        tolerates_missing: whether a case may lack some.
        without: channels that are left out whatever there is.
        echo: number of the echo to take where there are several; None takes that whose time suits best.
        turns_qsm: whether a map of susceptibility stands for the one channel where nothing better is there: with its
            sign turned, iron is dark in it as in a magnitude.
    """

    names: tuple[str, ...]
    tolerates_missing: bool = False
    without: frozenset[int] = frozenset()
    echo: int | None = None
    turns_qsm: bool = False

    @property
    def numbers(self) -> dict[str, int]:
        """Name of a channel in small letters, as users may write it -> its number."""
        return {name.lower(): number for number, name in enumerate(self.names)}

    def rank(self, channel: int, volume: Volume) -> int | None:
        """How well a volume stands for a channel, 0 best; None for not at all."""
        if volume.channel is not None:
            return 0 if volume.channel == channel else None
        contrast = contrast_of_name(self.names[channel])
        wanted = _WANTED.get(contrast, (contrast,))
        if len(self.names) == 1 and UNKNOWN not in wanted:
            wanted = (*wanted, UNKNOWN)
        if self.turns_qsm and QSM not in wanted:
            wanted = (*wanted, QSM)
        if contrast == ANATOMY and volume.contrast == ANATOMY:
            ours, theirs = (_anatomy_word(text) for text in (self.names[channel], volume.name))
            return 0 if ours == theirs else None
        return wanted.index(volume.contrast) if volume.contrast in wanted else None

    def turns(self, channel: int, volume: Volume) -> bool:
        """Whether a volume stands for a channel with its sign turned."""
        return self.turns_qsm and volume.contrast == QSM and contrast_of_name(self.names[channel]) != QSM


@dataclass(frozen=True)
class InputCase:
    """One case of an input.

    Attributes:
        case_id: its name.
        volumes: channel of the model -> what stands for it.
        channels: of the model.
        problem: why it cannot be predicted, "" where nothing is known against it.
    """

    case_id: str
    volumes: dict[int, Volume]
    channels: Channels
    problem: str = ""

    def source(self, folder: Path) -> ScanSource:
        """The case for the network.

        Args:
            folder: where volumes are written that are no 3D files yet.
        """
        targets = {c: folder / f"{self.case_id}_{c:04d}.nii.gz" for c in range(len(self.channels.names))}
        images = {c: v.path if v.is_file else targets[c] for c, v in self.volumes.items()}
        missing = tuple(c for c in targets if c not in self.volumes or c in self.channels.without)
        case = Case(self.case_id, tuple({**targets, **images}.values()), raw=folder, missing=missing)
        tolerates = self.channels.tolerates_missing
        todo = tuple((v, targets[c]) for c, v in sorted(self.volumes.items()) if not v.is_file and c not in missing)
        if not todo and not self.problem:
            return ScanSource(case, tolerates_missing=tolerates)
        origin = tuple(file for c, v in sorted(self.volumes.items()) if c not in missing for file in v.files)
        variant = " ".join(f"{v.name}:{v.index}{':turned' if v.turned else ''}" for v, _ in todo)
        fetch = partial(_fetch, self.volumes[min(self.volumes)].name, todo, self.problem)
        return ScanSource(case, None, tolerates, fetch=fetch, origin=origin, variant=variant)


@dataclass
class Intake:
    """What an input holds.

    Attributes:
        cases: to be predicted, by name; those with a problem are reported as failed.
        rows: the table of all that was seen.
    """

    cases: list[InputCase] = field(default_factory=list)
    rows: list[InputRow] = field(default_factory=list)

    def sources(self, folder: Path) -> list[ScanSource]:
        """The cases for the network; ``folder`` as in ``InputCase.source``."""
        return [case.source(folder) for case in self.cases]


def _fetch(name: str, todo: Sequence[tuple[Volume, Path]], problem: str) -> None:
    if problem:
        raise UserError(f"{name}: {problem}", remedy="see inputs.tsv, or leave it out")
    for volume, target in todo:
        volume.write(target)


def select(volumes: Sequence[Volume], channels: Channels) -> Intake:
    """Gives each case's channels their volumes; the cases come by name."""
    listed: list[tuple[InputCase | None, list[InputRow]]] = []
    places: list[tuple[str, str]] = []  # name and folder of each case
    sessions: dict[str, list[Volume]] = defaultdict(list)
    for volume in volumes:
        sessions[volume.session].append(volume)
    for members in sessions.values():
        best = _best_rank(members, channels)
        groups: dict[str, list[Volume]] = defaultdict(list)
        for volume in members:
            groups[volume.case].append(volume)
        for case_id, group in groups.items():
            case, rows = _case(case_id, group, channels, best)
            listed.append((case, rows))
            if case is not None:
                places.append((case_id, commonpath([volume.folder for volume in group])))
    names = iter(own_names(places))
    intake = Intake()
    for case, rows in listed:
        if case is not None:
            name = next(names)
            intake.cases.append(replace(case, case_id=name))
            rows = [replace(row, case=row.case and name) for row in rows]
        intake.rows += rows
    intake.cases.sort(key=lambda case: case.case_id)
    return intake


def _best_rank(volumes: Sequence[Volume], channels: Channels) -> int:
    """Of the first channel, over all cases of a session: a lesser contrast is not predicted beside a better one that
    can be read."""
    usable = _usable_ranks(volumes, channels, 0)
    return min(_without_damaged(usable, volumes).values(), default=0)


def _usable_ranks(volumes: Sequence[Volume], channels: Channels, channel: int) -> dict[int, int]:
    """Number of a volume that may stand for a channel -> how well it does."""
    ranks = {i: channels.rank(channel, v) for i, v in enumerate(volumes) if not _too_short(v)}
    return {i: rank for i, rank in ranks.items() if rank is not None}


def _without_damaged(ranks: dict[int, int], volumes: Sequence[Volume]) -> dict[int, int]:
    """Those that can be read, or all where none can; a damaged echo stays, or another would have its number."""
    return {i: rank for i, rank in ranks.items() if volumes[i].echo or not volumes[i].defect} or ranks


def _too_short(volume: Volume) -> bool:
    named = volume.channel is not None
    weighted = volume.contrast in (MAGNITUDE, UNKNOWN) and volume.echo_ms is not None
    return weighted and not named and not volume.echo and (volume.echo_ms or 0.0) < SHORTEST_ECHO_MS


def _case(
    case_id: str, group: Sequence[Volume], channels: Channels, best: int
) -> tuple[InputCase | None, list[InputRow]]:
    """A case from the volumes that belong together, and a row for each of them."""
    chosen: dict[int, Volume] = {}
    reasons: dict[int, str] = {}
    replaced: set[int] = set()
    for channel in range(len(channels.names)):
        usable = _usable_ranks(group, channels, channel)
        ranks = _without_damaged(usable, group)
        lowest = min(ranks.values(), default=None)
        if lowest is None or (channel == 0 and lowest > best):
            if lowest is not None:
                reasons |= dict.fromkeys(ranks, "the session has a scan that suits the model better")
            continue
        replaced |= {i for i, rank in usable.items() if i not in ranks and rank <= lowest}
        fitting = [i for i, rank in ranks.items() if rank == lowest and i not in reasons]
        reasons |= {i: f"{channels.names[channel]} is there, which suits better" for i in ranks if i not in fitting}
        taken, others = _one_of(fitting, group, channels.echo)
        reasons |= others
        if taken is not None:
            chosen[channel] = group[taken]
    names = {id(volume): channels.names[channel] for channel, volume in chosen.items()}
    turned = {id(volume) for channel, volume in chosen.items() if channels.turns(channel, volume)}
    problem = _problem(chosen, channels)
    if problem is None:  # nothing that the model knows
        why = f"{channels.names[0]} is not there"
        reasons |= {i: why for i, v in enumerate(group) if id(v) in names and i not in reasons}
        names, chosen = {}, {}
    rows = []
    for i, volume in enumerate(group):
        name = names.get(id(volume), "")
        unusable = i in replaced or (name and (volume.defect or problem))
        status = UNUSABLE if unusable else TAKEN if name else PASSED_OVER
        remark = TURNED if id(volume) in turned else _remark(volume, group)
        why = (volume.defect or problem or remark) if name else reasons.get(i) or _why_not(volume)
        rows.append(InputRow(case_id if name else "", name, volume.where, volume.contrast, status, why or ""))
    chosen = {c: replace(v, turned=id(v) in turned) for c, v in chosen.items()}
    return (InputCase(case_id, chosen, channels, problem or "") if chosen else None), rows


def _problem(chosen: dict[int, Volume], channels: Channels) -> str | None:
    """What is wrong with a case, "" for nothing; None where it is no case of this model at all."""
    used = {channel: volume for channel, volume in chosen.items() if channel not in channels.without}
    if not used or (0 not in chosen and not channels.tolerates_missing and len(chosen) < len(channels.names) - 1):
        return None
    defect = next((volume.defect for volume in used.values() if volume.defect), "")
    missing = [name for channel, name in enumerate(channels.names) if channel not in used]
    if missing and not channels.tolerates_missing and not defect:
        return f"has no {', '.join(missing)}, which the model needs"
    return defect


def _one_of(fitting: Sequence[int], group: Sequence[Volume], echo: int | None) -> tuple[int | None, dict[int, str]]:
    """One of the volumes that show the same: the best echo, where it was acquired last; the others with a reason.

    Scanners also export each echo as a series of its own, so only volumes of one echo time replace each other.
    """
    if not fitting:
        return None, {}
    reasons: dict[int, str] = {}
    repeated: dict[tuple[float | None, int], list[int]] = defaultdict(list)
    for i in fitting:
        time = group[i].echo_ms
        repeated[(None, group[i].echo) if time is None else (round(time, 1), 0)].append(i)
    last: list[int] = []
    for members in repeated.values():
        order = max(group[i].order for i in members)
        latest = [i for i in members if group[i].order == order]
        reasons |= {i: f"acquired again later: {group[latest[-1]].name}" for i in members if i not in latest}
        last += latest
    if len(last) == 1:
        return last[0], reasons
    numbers = sorted(last, key=lambda i: (group[i].echo, group[i].echo_ms or 0.0))
    if echo is not None:
        taken = numbers[echo - 1] if echo <= len(numbers) else None
        why = f"--echo {echo} is taken" if taken is not None else f"--echo {echo}: there are {len(numbers)}"
    elif all(group[i].echo_ms is not None for i in numbers):
        target = best_echo_ms(group[numbers[0]].field_t)
        taken = min(numbers, key=lambda i: abs((group[i].echo_ms or 0.0) - target))
        why = f"another echo is nearer to {target:g} ms; --echo chooses"
    elif not any(group[i].echo for i in numbers):
        taken = numbers[-1]
        why = f"{group[taken].name} has the same name and contrast; nothing tells which is right"
    else:
        taken = numbers[-1]
        why = "another echo is later, so more weighted by T2*; --echo chooses"
    return taken, {**reasons, **{i: why for i in numbers if i != taken}}


def best_echo_ms(field_t: float | None) -> float:
    """Echo time in ms at which iron shows best at a field strength: 60 ms T divided by it, at least 12 ms."""
    return 20.0 if not field_t else max(round(_BEST_ECHO_MS_T / field_t), 12.0)


def _remark(volume: Volume, group: Collection[Volume]) -> str:
    same = {v.echo for v in group if v.echo and v.contrast == volume.contrast}
    time = f" ({volume.echo_ms:g} ms)" if volume.echo_ms else ""
    return f"echo {volume.echo} of {len(same)}{time}" if volume.echo and len(same) > 1 else ""


def _why_not(volume: Volume) -> str:
    if volume.defect:
        return volume.defect
    if _too_short(volume):
        return f"its echo time of {volume.echo_ms:g} ms is too short to show iron by T2*"
    return WHY_NOT.get(volume.contrast, "the model does not know it")


def _anatomy_word(text: str) -> str:
    lower = text.lower()
    return next((word for word in _ANATOMY_WORDS if word in lower), "")
