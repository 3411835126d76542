"""Defects of samples, attacks, and the files that lipnet writes and reads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lipnet import tensor_file
from lipnet.certify import PGD
from lipnet.certify.attacks import geometry
from lipnet.certify.files import read_certified, rows_of
from lipnet.certify.html.runs import Run
from lipnet.certify.partial import PartialCertification
from lipnet.data import FolderDataModule, ImageDataModule
from lipnet.data.fingerprint import fingerprint
from lipnet.data.samplers import ShardSampler
from lipnet.models import checkpoint, load_checkpoint, pretrained
from lipnet.models.fit import check_fit
from lipnet.structured.adapters import attachment
from tests.mutation.planting import Defect, attribute, edit, edit_method, replace


def _lenient_weights(patch: pytest.MonkeyPatch) -> None:
    """Weights are checked twice: before the model is allocated, and when they are loaded."""
    edit(check_fit, "if missing or surplus:", "if surplus:")(patch)
    edit(load_checkpoint, "model.load_state_dict(state)", "model.load_state_dict(state, strict=False)")(patch)


def _padded(self: ShardSampler) -> Iterator[int]:
    """Yield equally many samples in each process, as torch's own sampler does."""
    count = -(-self.total_size // self.num_replicas)
    return iter([(self.rank + i * self.num_replicas) % self.total_size for i in range(count)])


DEFECTS = [
    Defect(
        "weights: weights that a checkpoint lacks stay random",
        _lenient_weights,
        ["tests/models/test_checkpoint.py::test_weights_that_do_not_fit_the_model"],
    ),
    Defect(
        "samples: the last process repeats samples of the first, and they count",
        attribute(ShardSampler, "__iter__", _padded),
        [
            "tests/data/test_image_data_module.py::test_processes_share_the_evaluation_without_repeats_and_the_training_evenly"
        ],
    ),
    Defect(
        "samples: the order of evaluation is not that of the indices",
        attribute(
            ShardSampler, "__iter__", lambda self: iter(range(self.rank, self.total_size, self.num_replicas)[::-1])
        ),
        ["tests/data/test_image_data_module.py::test_evaluation_is_in_dataset_order_without_augmentation"],
    ),
    Defect(
        "samples: repeated certificates, or those of other samples, make a file",
        edit_method(
            PartialCertification,
            "all_rows",
            "if [row.idx for row in rows] != list(indices):",
            "if len(rows) < len(indices):",
        ),
        ["tests/certify/test_partial.py::test_certificates_of_other_samples_do_not_make_a_file"],
    ),
    Defect(
        "samples: each label stands beside the certificate of the next image",
        edit(rows_of, "columns = (indices, labels,", "columns = (indices, labels.roll(1),"),
        ["tests/certify/test_run.py::test_a_line_for_each_sample_in_order"],
    ),
    Defect(
        "samples: test images that are chosen anew may be images of the training",
        attribute(FolderDataModule, "settings_behind", lambda self, split: ()),
        ["tests/data/test_certified_data.py::test_images_that_the_training_may_have_seen_are_not_certified"],
    ),
    Defect(
        "samples: the folder of the training images is certified as if they were test images",
        edit_method(FolderDataModule, "settings_behind", ', "test_folder")', ")"),
        ["tests/data/test_certified_data.py::test_the_training_images_of_a_folder_with_test_images_are_no_test_images"],
    ),
    Defect(
        "samples: other images with the names of those of the training pass for them",
        replace(fingerprint, lambda tree: ""),
        ["tests/data/test_certified_data.py::test_images_with_the_names_and_sizes_of_others_are_not_certified"],
    ),
    Defect(
        "samples: a transfer validates on images of the base's training",
        attribute(ImageDataModule, "unseen_by", lambda self, description: True),
        ["tests/workflows/test_transfer.py::test_a_base_that_may_have_seen_the_validation_images_is_refused"],
    ),
    Defect(
        "attack: it never searches",
        attribute(PGD, "perturb", lambda self, model, images, prediction, epsilon: images),
        ["tests/certify/attacks/test_pgd.py::test_it_finds_the_nearest_boundary_of_a_linear_classifier"],
    ),
    Defect(
        "attack: it leaves the pixel box",
        attribute(geometry, "_clip", lambda images, offsets: offsets),
        ["tests/certify/attacks/test_pgd.py::test_it_stays_within_the_box"],
    ),
    Defect(
        "attack: distances are rounded down",
        edit(geometry.distances_up, "1 + (offsets", "1 - (offsets"),
        ["tests/certify/attacks/test_geometry.py::test_distances_are_never_below_the_exact_ones"],
    ),
    Defect(
        "adapters: a nonlinear bottleneck is merged, and so dropped",
        edit(attachment.merge, "if not update.merges", "if update.merges is None"),
        ["tests/structured/test_bottleneck.py::test_it_refuses_to_be_merged_and_certified"],
    ),
    Defect(
        "pretrained: a model card states the figures of an edited summary",
        edit(pretrained._check_summary, 'summary.get("sha256") != json_sha256(summary)', "False"),
        ["tests/models/test_pretrained.py::test_an_edited_summary_is_refused"],
    ),
    Defect(
        "pretrained: a model card states the figures of other weights",
        edit(pretrained._check_summary, "summary.get(name) != found", "False"),
        [
            "tests/models/test_pretrained.py::test_a_summary_of_other_weights_is_refused",
            "tests/models/test_pretrained.py::test_a_summary_of_another_network_with_the_same_weights_is_refused",
        ],
    ),
    Defect(
        "tensor files: damaged files are loaded",
        edit(tensor_file.parse_tensor_file, "if not intact:", "if False:"),
        [
            "tests/test_tensor_file.py::test_a_flipped_bit_is_noticed",
            "tests/models/test_safetensors.py::test_a_flipped_bit_is_noticed",
            "tests/structured/adapters/test_files.py::test_a_flipped_bit_is_noticed",
        ],
    ),
    Defect(
        "checkpoint: a safetensors file without a SHA-256 is read",
        edit(checkpoint._read_tensor_file, "if not content.has_sha256:", "if False:"),
        ["tests/models/test_safetensors.py::test_a_flipped_bit_is_noticed"],
    ),
    Defect(
        "report: a radius that equals the mark counts as certified",
        edit_method(Run, "certified", "self.steps > radius", "self.steps >= radius"),
        ["tests/certify/html/test_runs.py::test_a_radius_that_equals_the_mark_is_not_certified"],
    ),
    Defect(
        "report: the files of two certifications are mixed",
        edit(read_certified, "name not in summary or summary[name] != value", "False"),
        ["tests/certify/html/test_runs.py::test_missing_edited_and_foreign_files_are_refused"],
    ),
]
