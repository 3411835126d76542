"""Defects of resumed trainings, which then differ from uninterrupted ones, and of what a certification is given."""

from __future__ import annotations

import lipnet.workflows.distillation
from lipnet.certify.run import Certification
from lipnet.training import CertifiedClassifier
from lipnet.training.kept_facts import _own_code, _teacher
from lipnet.training.random_states import RandomStates
from lipnet.training.resumption import ExactResumption
from tests.mutation.planting import Defect, attribute, edit_method, replace

RESUMPTION = "tests/training/test_resumption.py::"

DEFECTS = [
    Defect(
        "trainings: random numbers begin again",
        attribute(RandomStates, "on_load_checkpoint", lambda self, *_: None),
        [f"{RESUMPTION}test_random_numbers_go_on[{steps}-False]" for steps in (3, 8, 11)],
    ),
    Defect(
        "trainings: a loader's start within an epoch draws random numbers",
        attribute(RandomStates, "on_train_batch_start", lambda self, *_: None),
        [f"{RESUMPTION}test_random_numbers_go_on[{steps}-True]" for steps in (3, 11)],
    ),
    Defect(
        "trainings: weights in float64 are rounded to float32",
        attribute(CertifiedClassifier, "on_load_checkpoint", lambda self, checkpoint: None),
        [RESUMPTION + "test_weights_in_float64_are_not_rounded"],
    ),
    Defect(
        "trainings: the rest of an epoch accumulates no gradients",
        edit_method(ExactResumption, "on_train_start", "each.on_train_epoch_start(trainer, pl_module)", "pass"),
        [RESUMPTION + "test_gradients_accumulate_within_the_rest_of_an_epoch"],
    ),
    Defect(
        "trainings: the figures of the last validation are lost",
        edit_method(ExactResumption, "on_load_checkpoint", "checkpoint.get(_METRICS, {})", "{}"),
        [RESUMPTION + "test_a_checkpoint_between_validations_has_the_score_of_the_last_one"],
    ),
    Defect(
        "trainings: the code of your own modules may be another one",
        replace(_own_code, lambda module: {}),
        [f"{RESUMPTION}test_other_code_of_your_own_modules_is_refused[{case}]" for case in ("constant", "method")],
    ),
    Defect(
        "trainings: another teacher may go on",
        replace(_teacher, lambda module: {}),
        ["tests/training/test_distillation.py::test_a_training_does_not_resume_with_another_teacher"],
    ),
    Defect(
        "trainings: a teacher may have seen the validation images",
        attribute(lipnet.workflows.distillation, "check_unseen", lambda *_: None),
        [
            "tests/workflows/test_distillation.py::"
            f"test_a_teacher_that_may_have_seen_the_validation_images_is_refused[split{case}]"
            for case in (0, 1)
        ],
    ),
    Defect(
        "trainings: validation softens the labels, too",
        edit_method(
            CertifiedClassifier,
            "test_step",
            "loss = self.loss(logits, labels)",
            "loss = self.loss(logits, self.distillation.soften(images, labels, 10) if self.distillation else labels)",
        ),
        ["tests/training/test_distillation.py::test_a_training_leaves_the_teacher_alone_and_validates_on_the_labels"],
    ),
    Defect(
        "certificates: images beyond the labels of their batch are left out",
        edit_method(Certification, "certify", "len(images) != len(labels)", "False"),
        ["tests/certify/test_run.py::test_batches_of_more_or_fewer_labels_than_images_make_no_file[6-1]"],
    ),
]
