"""Validation during training: which scans it looks at, and how."""

import pytest
from short_training import run

from cmb_plugin.inference import InferenceConfig
from cmb_plugin.training import validation
from cmb_plugin.training.validation import choose_validation_cases


@pytest.mark.parametrize(
    ("case_ids", "count", "expected"),
    [
        (["healthy", "healthy2", "a", "b"], 1, ["a"]),
        (["healthy", "healthy2", "a", "b"], 2, ["healthy", "a"]),
        (["healthy", "healthy2", "a", "b"], 3, ["healthy", "a", "b"]),
        (["a", "b", "c"], 2, ["a", "b"]),
        (["healthy", "healthy2"], 1, ["healthy"]),
        (["healthy", "a"], 5, ["healthy", "a"]),
        (["healthy", "a"], None, ["healthy", "a"]),
        ([], 3, []),
    ],
)
def test_scans_with_lesions_and_healthy_ones_take_turns(prepared, case_ids, count, expected):
    assert choose_validation_cases(prepared, case_ids, count) == expected


def test_the_best_checkpoint_is_written_though_the_first_scans_are_healthy(prepared, tmp_path):
    history, _ = run(
        prepared, tmp_path, validation_ids=["healthy", "healthy2", "c"], validation_cases=2, epochs=1, swa_epochs=1
    )
    assert (tmp_path / "model_best.ckpt").is_file()
    assert history.rows[-1]["val_froc_score"] is not None


def test_validation_predicts_as_the_model_will_but_for_the_overlap(prepared, tmp_path, monkeypatch):
    seen = []
    predict = validation.predict_array

    def recording(models, data, config, device):
        seen.append(config)
        return predict(models, data, config, device)

    monkeypatch.setattr(validation, "predict_array", recording)
    run(
        prepared,
        tmp_path,
        inference_cfg=InferenceConfig(overlap=0.6, min_score=0.125, tta=2),
        epochs=1,
        swa_epochs=0,
        validation_overlap=0.1,
    )
    assert seen == [InferenceConfig(overlap=0.1, min_score=0.125, tta=2, foreground=False)]
