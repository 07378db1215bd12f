"""How large a round of pretraining is, of which phantoms, and how it trains."""

from __future__ import annotations

from dataclasses import dataclass

POOL_SEED = 900_000
"""Of the validation pool; rounds have other seeds, so that no scan of it is ever trained on."""
POOL_PROTOCOLS = ",".join(["mixed", *["wide"] * 6])
"""Six protocols of data sets in turn, then six drawn scanners."""
TRAINER = "CMBRetinaUNet"


def seed_of(number: int) -> int:
    """Of a round's phantoms and of its training: 1000, 2000, ..."""
    return 1000 * (number + 1)


@dataclass(frozen=True)
class Part:
    """Phantoms of one kind.

    Attributes:
        name: appended to that of the round's Task.
        subjects: how many are simulated.
        words: further options of ``nndet_example``.
    """

    name: str
    subjects: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """How large a round is.

    Attributes:
        scans: training phantoms of a round.
        pool: phantoms of the validation pool, each of a subject of its own.
        healthy: share without lesions.
        lesions: mean number of microbleeds of a training phantom that has any; 0 for as many as in cohorts, from which
            less is learned (docs/studies/pretrained.md).
        steps: optimisation steps of a round; a tenth of them averages weights.
        epochs: into which the steps are divided.
        modality: the one channel.
        protocol: of ``nndet_example``, of half of the scans.
        drawn: protocol of the other half, of which every scan has a scanner of its own; empty for none.
        per_subject: scans of one subject by drawn scanners.
        anatomy: labelled head, ``FILE:TABLE``, of half of the subjects with drawn scanners; empty for none.
        pool_protocol: of the pool.
        prep, train: further overrides of ``nndet_prep`` in the first round, and of ``nndet_train``.
    """

    scans: int = 240
    pool: int = 48
    healthy: float = 0.3
    lesions: int = 24
    steps: int = 12_000
    epochs: int = 20
    modality: str = "swi"
    protocol: str = "mixed"
    drawn: str = "wide"
    per_subject: int = 3
    anatomy: str = ""
    pool_protocol: str = POOL_PROTOCOLS
    prep: tuple[str, ...] = ()
    train: tuple[str, ...] = ()

    @property
    def parts(self) -> list[Part]:
        """The phantoms of a round, the first part never empty."""
        more = ("--lesions", str(self.lesions)) if self.lesions else ()
        if not self.drawn:
            return [Part("", self.scans, ("--protocol", self.protocol, *more))]
        fixed = max(1, self.scans // 2)
        words = ("--protocol", self.drawn, "--scans-per-subject", str(self.per_subject), *more)
        subjects = max(1, round((self.scans - fixed) / self.per_subject))
        on_head = subjects // 2 if self.anatomy else 0
        parts = [
            Part("", fixed, ("--protocol", self.protocol, *more)),
            Part("Drawn", subjects - on_head, words),
            Part("Head", on_head, (*words, "--anatomy", self.anatomy)),
        ]
        return [part for part in parts if part.subjects]

    @property
    def description(self) -> str:
        """What a round learns from, in words."""
        kinds = [
            f"{part.subjects} {'subjects' if '--scans-per-subject' in part.words else 'phantoms'}, "
            + " ".join(word for word in part.words if word != self.anatomy)
            for part in self.parts
        ]
        return "; ".join(kinds)

    def overrides(self, number: int) -> list[str]:
        """Those of ``nndet_train`` in a round."""
        averaging = max(1, self.epochs // 10)
        return [
            f"module={TRAINER}",
            "train=fast",
            "augment=domains",
            "augment_cfg.painted=0.35",
            f"exp.seed={seed_of(number)}",
            f"trainer_cfg.epochs={max(1, self.epochs - averaging)}",
            f"trainer_cfg.swa_epochs={averaging}",
            f"trainer_cfg.steps_per_epoch={max(1, self.steps // self.epochs)}",
            f"trainer_cfg.validate_every={self.epochs}",
            *self.train,
        ]
