"""Registries: entry points, decorators, a user's own module."""

import sys

import pytest

from cmb_plugin.errors import UserError
from cmb_plugin.plugins import Registry, import_additional, planners, tasks, trainers
from cmb_plugin.workers import run_cases


def test_own_plugins_are_found_through_entry_points():
    assert "D3V001" in planners.names()
    assert "RetinaUNetV001" in trainers.names()
    assert "phantom" in tasks.names()


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"unknown trainer 'RetinaUNet01' - did you mean RetinaUNetV001"):
        trainers.get("RetinaUNet01")


def test_a_third_party_package_is_found_like_our_own(tmp_path, monkeypatch):
    (tmp_path / "their_package.py").write_text("class Theirs: pass\n")
    metadata = tmp_path / "their_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their_package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[cmb_plugin.trainers]\nTheirs = their_package:Theirs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert trainers.get("Theirs").__name__ == "Theirs"


def test_a_users_module_registers_through_the_decorator(tmp_path, monkeypatch):
    (tmp_path / "my_trainers.py").write_text(
        "from cmb_plugin.plugins import register_trainer\n@register_trainer\nclass Mine: pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    import_additional(["my_trainers"])
    assert trainers.get("Mine").__name__ == "Mine"
    assert "Mine" in trainers.names()
    del trainers._registered["Mine"]


def _known_trainers(_):
    return trainers.names()


def test_spawned_processes_know_the_users_plugins_and_survive_one_that_is_gone(tmp_path, monkeypatch):
    for name in ("stays", "goes"):
        code = f"from cmb_plugin.plugins import register_trainer\n@register_trainer\nclass Of{name}: pass\n"
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    import_additional(["stays", "goes"])
    (tmp_path / "goes.py").unlink()
    outcomes = run_cases(_known_trainers, [1, 2], workers=2)
    assert [{"Ofstays", "Ofgoes"} & set(outcome.result or ()) for outcome in outcomes] == [{"Ofstays"}] * 2
    for name in ("stays", "goes"):
        del trainers._registered[f"Of{name}"], sys.modules[name]


def test_a_missing_module_is_the_users_error_but_a_missing_import_inside_it_is_not(tmp_path, monkeypatch):
    (tmp_path / "breaks.py").write_text("import not_there_at_all\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserError, match="no module named 'absent'"):
        import_additional(["absent"])
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        import_additional(["breaks"])


def test_a_registered_class_wins_over_an_entry_point():
    registry = Registry("trainer", "cmb_plugin.trainers")

    @registry.register
    class RetinaUNetV001: ...

    assert registry.get("RetinaUNetV001") is RetinaUNetV001
