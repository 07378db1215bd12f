"""Typed settings: dataclasses with defaults, changed by ``-o a.b=c`` as in nnDetection."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf, StringNode
from omegaconf.errors import OmegaConfBaseException

from .errors import UserError
from .files import write_text
from .plugins import suggest

T = TypeVar("T")


def within(default: Any, minimum: float | None = None, maximum: float | None = None) -> Any:
    """A field of a dataclass of settings whose value, or each value of a list, lies between bounds; null always may.

    Example:
        >>> @dataclasses.dataclass
        ... class Config:
        ...     overlap: float = within(0.5, 0, 0.95)
    """
    return dataclasses.field(default=default, metadata={"minimum": minimum, "maximum": maximum})


def check_ranges(group: Any, name: str) -> None:
    """Refuses settings beyond the bounds that ``within`` gave them.

    Args:
        group: a dataclass instance; groups in it are checked too.
        name: what the group is called in messages.

    Raises:
        UserError: the setting and its bounds are named.
    """
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{name}.{field.name}")
        minimum, maximum = field.metadata.get("minimum"), field.metadata.get("maximum")
        for number in value if isinstance(value, list | tuple) else [value]:
            if number is None or isinstance(number, str):
                continue
            if (minimum is not None and not number >= minimum) or (maximum is not None and not number <= maximum):
                bounds = f"{minimum} or more" if maximum is None else f"{minimum} to {maximum}"
                raise UserError(f"{name}.{field.name}={value} is out of range", remedy=f"choose {bounds}")


class Overrides:
    """The ``-o`` words of one command: first single keys are taken, then the rest is applied to typed groups.

    Example:
        >>> overrides = Overrides.parse(["planner=D3V001", "planner_cfg.gpu_memory_gb=4"])
        >>> overrides.take("planner", "D3CMB")
        'D3V001'
        >>> overrides.apply(planner_cfg=PlannerConfig())["planner_cfg"].gpu_memory_gb
        4.0
    """

    def __init__(self, values: Mapping[str, Any], texts: Mapping[str, str] | None = None) -> None:
        self._values = dict(values)
        self._texts = dict(texts or {})  # as they were given, for settings that are text: a tag 010 is no number

    @classmethod
    def parse(cls, words: Sequence[str]) -> Overrides:
        """Reads ``key=value`` words. Hydra's leading ``+`` is accepted and means nothing here; values are YAML.

        Raises:
            UserError: a word has no ``=``, no key, or a value that is not YAML.
        """
        values: dict[str, Any] = {}
        texts: dict[str, str] = {}
        for word in words:
            key, equals, value = word.partition("=")
            key = key.strip().lstrip("+")
            if not equals or not key:
                raise UserError(f"override '{word}' is not key=value", remedy="write for instance -o exp.fold=1")
            try:
                parsed = OmegaConf.from_dotlist([f"value={value}"])
                values[key] = OmegaConf.to_container(parsed, resolve=True)["value"]  # type: ignore[index, call-overload]
                texts[key] = value
            except Exception as error:  # OmegaConf passes on errors of several YAML and grammar classes
                raise UserError(f"override '{word}': {_first_line(error)}", remedy="quote the value") from None
        return cls(values, texts)

    def take(self, key: str, default: Any = None) -> Any:
        """Removes ``key`` and returns its value, or ``default``."""
        return self._values.pop(key, default)

    def take_imports(self) -> list[str]:
        """Removes ``additional_imports`` and returns it as a list of module names.

        Raises:
            UserError: it is something else.
        """
        modules = self.take("additional_imports") or []
        modules = [modules] if isinstance(modules, str) else modules
        if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
            raise UserError(
                f"additional_imports={modules}: is no module", remedy="write additional_imports=[my_module]"
            )
        return modules

    def copy(self) -> Overrides:
        """Overrides of which keys can be taken without these losing them."""
        return Overrides(self._values, self._texts)

    def below(self, values: Mapping[str, Any]) -> Overrides:
        """These overrides on top of ``values``, for instance of a preset."""
        return Overrides({**values, **self._values}, self._texts)

    def apply(self, **groups: Any) -> dict[str, Any]:
        """Applies every override to the group that its first word names.

        Args:
            groups: dataclass instances by name; they are not changed.

        Returns:
            new instances by name.

        Raises:
            UserError: a key that no group has (the nearest known ones are named), a value of the wrong type or out of
                range.
        """
        known = {f"{name}.{key}" for name, group in groups.items() for key in _dotted_keys(group)}
        result = {name: OmegaConf.structured(group) for name, group in groups.items()}
        for key, value in self._values.items():
            group, _, rest = key.partition(".")
            if key not in known and not any(k.startswith(f"{key}.") for k in known):
                raise UserError(f"unknown setting '{key}'", remedy=suggest(key, known))
            if not rest:
                raise UserError(f"'{key}' is a group of settings", remedy=suggest(key, known))
            try:
                is_text = isinstance(value, int | float) and _is_text(result[group], rest)
                OmegaConf.update(result[group], rest, self._texts.get(key, value) if is_text else value, merge=True)
            except OmegaConfBaseException as error:
                raise UserError(
                    f"setting '{key}={value}': {_first_line(error)}", remedy="give a value of that type"
                ) from None
        objects = {name: OmegaConf.to_object(config) for name, config in result.items()}
        for name, changed in objects.items():
            check_ranges(changed, name)
        return objects


def typed(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Builds dataclass ``kind`` from the plain values of a settings file; missing ones take their defaults.

    Raises:
        UserError: an unknown key, a value of the wrong type or out of range; ``where`` names the file.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), dict(values))
        group: T = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise UserError(f"{where}: {_first_line(error)}", remedy="restore the file") from None
    check_ranges(group, f"{where}: {kind.__name__}")
    return group


def _is_text(group: Any, dotted: str) -> bool:
    """Whether a setting is text and nothing else."""
    *groups, name = dotted.split(".")
    node = OmegaConf.select(group, ".".join(groups)) if groups else group
    return isinstance(node._get_node(name), StringNode)


def _dotted_keys(group: Any) -> list[str]:
    keys: list[str] = []
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            keys += [f"{field.name}.{key}" for key in _dotted_keys(value)]
        else:
            keys.append(field.name)
    return keys


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Groups of settings as ``read_settings`` gives them back: plain dictionaries, lists, numbers and text."""
    return OmegaConf.to_container(OmegaConf.create(_as_yaml(settings)), resolve=True)  # type: ignore[return-value]


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes groups of settings as YAML, atomically."""
    write_text(path, _as_yaml(settings))


def _as_yaml(settings: Mapping[str, Any]) -> str:
    plain: dict[str, Any] = {}
    for name, value in settings.items():
        is_group = dataclasses.is_dataclass(value) and not isinstance(value, type)
        plain[name] = dataclasses.asdict(value) if is_group else value
    return OmegaConf.to_yaml(OmegaConf.create(plain))


def read_settings(path: Path) -> dict[str, Any]:
    """Reads what ``write_settings`` wrote, as plain dictionaries.

    Raises:
        UserError: the file is missing or is not YAML.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)  # type: ignore[return-value]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", remedy="check the path, or train the model again") from None
    except Exception as error:
        raise UserError(f"{path}: not readable as YAML ({_first_line(error)})", remedy="restore the file") from None
