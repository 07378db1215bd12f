"""Normalisation schemes of a third party: named in the recipe, found in every process."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_task import make_tiny_task

from cmb_plugin.commands.predict import main as nndet_predict
from cmb_plugin.commands.prep import main as nndet_prep
from cmb_plugin.commands.train import main as nndet_train
from cmb_plugin.dataset import Dataset
from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, Mapping, read_scan
from cmb_plugin.plugins import normalisations, planners, register_normalisation
from cmb_plugin.preparation import (
    Normalisation,
    NormalisationScheme,
    Preprocessing,
    StoredCase,
    find_scheme,
    normalise,
    preprocess_case,
    read_images,
)

SCHEME = """
import numpy as np
from cmb_plugin.plugins import register_normalisation, register_planner
from cmb_plugin.planners.d3cmb import D3CMB
from cmb_plugin.preparation import Normalisation, NormalisationScheme

@register_normalisation
class OfItsRange(NormalisationScheme):
    def unit(self, cases, channel):
        return str(max(high for _, high in [case.extremes[channel] for case in cases])), "of the largest value"

    def normalise(self, image, step, brain=None, head=None):
        return image / np.float32(step.unit)

@register_planner
class Ranged(D3CMB):
    def normalisation(self, fingerprint):
        return (Normalisation("OfItsRange", unit=OfItsRange().unit(fingerprint.cases, 0)[0]),)
"""
PLAN = ["planner_cfg.patch_size=[16,16,16]", "planner_cfg.base_features=4", "planner_cfg.pyramid_channels=8"]
SHORT = [
    "module=RetinaUNetV001",
    "train=demo",
    "trainer_cfg.epochs=1",
    "trainer_cfg.steps_per_epoch=2",
    "trainer_cfg.swa_epochs=0",
]
IMPORTS = "additional_imports=[my_scheme]"


@pytest.fixture
def _forgotten():  # type: ignore[no-untyped-def]
    yield
    for registry in (normalisations, planners):
        for name in ("OfItsRange", "Ranged", "Halved"):
            registry._registered.pop(name, None)
    sys.modules.pop("my_scheme", None)


@pytest.mark.usefixtures("_forgotten")
def test_a_scheme_of_the_users_own_goes_through_prep_train_and_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmb_plugin.planning.anchors.PLACED_BOXES", 100)
    monkeypatch.setenv("det_data", str(tmp_path / "data"))
    monkeypatch.setenv("det_models", str(tmp_path / "models"))
    (tmp_path / "my_scheme.py").write_text(SCHEME, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    task = make_tiny_task(tmp_path / "data", n_train=3, n_test=2, modalities=("swi",), shape=(16, 24, 24))
    assert nndet_prep(["900", "-np", "0", "-o", IMPORTS, "planner=Ranged", *PLAN]) == 0
    largest = max(read_scan(case.images[0])[0].max() for case in Dataset.load(task).cases("Tr"))
    test_case = Dataset.load(task).cases("Ts")[0]
    image, grid = read_images(test_case)
    stored = StoredCase.open(task.prepared("Ranged_3d", "Ts"), test_case.case_id)
    whole = Mapping.plan(grid, (0, 1, 2)).orient(image)
    assert stored.data[:].max() == pytest.approx(whole.max() / largest, rel=0.1)
    assert nndet_train(["900", "-o", IMPORTS, "plan=Ranged_3d", *SHORT]) == 0
    normalisations._registered.pop("OfItsRange")  # as in a new process: the model's settings name the module
    sys.modules.pop("my_scheme")
    model = next((tmp_path / "models" / task.name).iterdir()).name
    # Two scans for two processes, which are spawned and know nothing of what was registered here.
    arguments = ["900", model, "--input", str(task.images("Ts")), "--output", str(tmp_path / "found"), "-npp", "2"]
    arguments += ["-o", "inference_cfg.overlap=0.1", "inference_cfg.tta=1"]
    assert nndet_predict(arguments) == 0
    assert len(list((tmp_path / "found").glob("*_boxes.json"))) == 2


@pytest.mark.usefixtures("_forgotten")
def test_a_scheme_says_how_it_is_resampled_and_whether_it_shows_the_brain() -> None:
    @register_normalisation
    class Halved(NormalisationScheme):
        circular = True

        def normalise(self, image, step, brain=None, head=None):  # type: ignore[no-untyped-def]
            assert (head is not None) == step.masked
            return image / 2

    angles = np.random.default_rng(0).uniform(-6, 6, (1, 10, 12, 12)).astype(np.float32)
    masked = Normalisation("Halved", masked=True)
    np.testing.assert_array_equal(normalise(angles, (masked,)), angles / 2)
    case = preprocess_case(
        angles, Grid((10, 12, 12), (1.0, 1.0, 1.0)), None, Preprocessing((2.0, 1.0, 1.0), normalisation=(masked,))
    )
    phase = Preprocessing((2.0, 1.0, 1.0), normalisation=(Normalisation("phase"),))
    np.testing.assert_allclose(
        case.data, preprocess_case(angles / 2, Grid((10, 12, 12), (1.0, 1.0, 1.0)), None, phase).data, atol=1e-5
    )


def test_an_unknown_scheme_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="robst") as raised:
        find_scheme("robst")
    assert "robust" in raised.value.remedy
    assert "additional_imports" in raised.value.remedy
