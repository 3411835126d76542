"""Defects that confuse models, data and runs: stale bounds, and certifications resumed with something else."""

from __future__ import annotations

from contextlib import nullcontext

from lipnet.certify import certify
from lipnet.certify.arithmetic import _workers_flush
from lipnet.certify.attacks.check import _Search
from lipnet.certify.certificates import check_own_modules
from lipnet.certify.checks import _check_calls, _is_nan, check_computes_as_declared
from lipnet.certify.evidence import Evidence
from lipnet.certify.export.prepared import _plain_facts
from lipnet.certify.files import read_certified
from lipnet.certify.html.runs import _false_figures
from lipnet.certify.inputs import check_pixels
from lipnet.certify.partial import PartialCertification, _digest
from lipnet.certify.processes import _certify_share
from lipnet.certify.ranks import _check_unchanged
from lipnet.certify.rounding import _step
from lipnet.certify.rules import Rule, bound_of, evaluated
from lipnet.certify.run import Certification, run_certification
from lipnet.certify.torch_rules_activations import _LeakyReLU
from lipnet.certify.torch_rules_resampling import _AdaptiveAvgPool2d
from lipnet.data.loaders import UnchangedBatches
from lipnet.functional.fingerprint import _content, _of_exact_class, counts_as_name, is_known
from lipnet.layers.cache import count_fused_step, version_of
from lipnet.layers.export import model as export_model
from lipnet.layers.identity import _everything_of, _held_by, _is_setting, _place_of, settings_of, state_of
from lipnet.layers.originals import replaced_in_bases
from lipnet.models.described import check_described
from lipnet.structured import StructuredOrthogonal
from lipnet.training import CertifiedClassifier, ExponentialMovingAverage
from lipnet.training.bounded_evaluation import BoundedEvaluation
from lipnet.workflows.attack_check import _agree
from lipnet.workflows.attacking import _check_model
from tests.mutation.planting import Defect, attribute, edit, edit_method, replace

CHECKS = "tests/certify/test_checks.py::"
FINGERPRINT = "tests/functional/test_fingerprint.py::"
PARTIAL, TAMPERING = "tests/certify/test_partial.py::", "tests/certify/test_tampering.py::"

DEFECTS = [
    Defect(
        "processes: a process does not compare its model after its last batch",
        edit(_certify_share, "certification.evidence.check_unchanged()", "pass"),
        ["tests/certify/test_processes.py::test_a_process_compares_its_own_model_after_its_last_batch"],
    ),
    Defect(
        "ranks: the processes of a group do not compare their models after the last batch",
        replace(_check_unchanged, lambda certification, partial: None),
        [
            "tests/certify/test_ranks.py::test_a_model_that_changed_in_this_process_is_an_error",
            "tests/certify/test_ranks.py::test_a_model_that_changed_in_another_process_is_an_error",
        ],
    ),
    Defect(
        "checks: methods of lipnet's classes may be replaced at runtime",
        replace(replaced_in_bases, lambda module: None),
        [f"{CHECKS}test_code_that_was_replaced_at_runtime_is_refused[{case}]" for case in ("layer", "activation")],
        trusting=False,
    ),
    Defect(
        "checks: methods of the parts of lipnet's layers may be replaced at runtime",
        edit(_check_calls, "isinstance(module, WatchedModule)", "isinstance(module, LipschitzModule)"),
        [f"{CHECKS}test_code_that_was_replaced_at_runtime_is_refused[scaling]"],
        trusting=False,
    ),
    Defect(
        "checks: methods of torch's classes besides their calls may be replaced at runtime",
        edit_method(Rule, "replaced", "replaced_method(self.methods, methods_of(self.cls))", "None"),
        [f"{CHECKS}test_code_that_was_replaced_at_runtime_is_refused[{case}]" for case in ("helper", "property")],
    ),
    Defect(
        "rules: weights that parametrize.cached() keeps count as the present ones",
        edit(evaluated, "if parametrize._cache_enabled:", "if False:"),
        [f"{CHECKS}test_weights_that_torch_keeps_for_its_parametrizations_are_refused"],
    ),
    Defect(
        "attack: images that are not finite count as a search that finds nothing",
        edit_method(_Search, "attack", " or not bool(found.isfinite().all())", ""),
        ["tests/certify/attacks/test_check.py::test_an_attack_that_returns_no_images_is_refused[<lambda>3]"],
    ),
    Defect(
        "export: a trace under autocast keeps its casts",
        attribute(export_model, "without_autocast", lambda device: nullcontext()),
        ["tests/layers/export/test_model.py::test_an_export_within_autocast_keeps_the_precision_of_the_model"],
    ),
    Defect(
        "export: facts may state bounds that the model does not have",
        edit(_plain_facts, "if taken:", "if False:"),
        [
            "tests/certify/export/test_program.py::"
            "test_settings_that_do_not_fit[settings4-ValueError-got class_names, pairwise_lipschitz]"
        ],
    ),
    Defect(
        "resume: what a try block covers counts for nothing",
        edit(_content, ", value.co_exceptiontable", ""),
        ["tests/functional/test_fingerprint.py::test_other_values_have_other_texts[extent of a try block]"],
    ),
    Defect(
        "resume: a subclass of a mapping counts as its entries",
        edit(_of_exact_class, "kind in (dict, types.MappingProxyType)", "isinstance(value, dict)"),
        ["tests/functional/test_fingerprint.py::test_other_values_have_other_texts[factory of missing entries]"],
    ),
    Defect(
        "resume: a method of C counts without its object",
        edit(_content, ", *texts([value.__self__])", ""),
        [f"{FINGERPRINT}test_other_values_have_other_texts[method of a {each}]" for each in ("mapping", "list")],
    ),
    Defect(
        "resume: every class counts as its name",
        replace(counts_as_name, lambda cls: True),
        [f"{FINGERPRINT}test_other_values_have_other_texts[{each}local class]" for each in ("", "object of a ")],
    ),
    Defect(
        "resume: content that cannot be compared counts as the same in every process",
        edit(is_known, "_UNKNOWN not in text", "True"),
        [f"{FINGERPRINT}test_content_that_pickle_refuses_is_comparable_in_one_process_alone[view of memory]"],
    ),
    Defect(
        "training: the network may change while it is evaluated by its old bounds",
        attribute(BoundedEvaluation, "check_unchanged", lambda self, model: None),
        ["tests/training/test_api.py::test_a_network_that_changes_during_an_evaluation_is_an_error"],
    ),
    Defect(
        "training: figures of another forward than the network's",
        edit_method(CertifiedClassifier, "_begin_evaluation", "is not CertifiedClassifier.forward", "is None"),
        ["tests/training/test_api.py::test_a_class_whose_forward_is_not_the_networks_is_not_certified"],
    ),
    Defect(
        "checks: modes of torch that change operations are accepted",
        edit(check_computes_as_declared, "type(mode) is not DeviceContext", "False"),
        ["tests/certify/test_checks.py::test_modes_that_may_change_every_operation_are_refused"],
    ),
    Defect(
        "units: pixels may lie outside [0, 1], the unit of radii",
        replace(check_pixels, lambda images: None),
        [
            "tests/training/test_api.py::test_images_in_other_units_than_the_radii_are_refused",
            "tests/certify/test_certificates.py::test_images_that_are_no_pixels_are_refused",
        ],
    ),
    Defect(
        "resumption: another model with the same state dict and bounds",
        edit_method(Certification, "identity", '"model_sha256": self.evidence.model_sha256', '"model_sha256": ""'),
        [PARTIAL + "test_another_model_with_the_same_state_and_bounds_is_not_gone_on_with"],
    ),
    Defect(
        "resumption: other images or labels",
        edit_method(
            Certification, "certify", "certified[number].data_sha256 != batch_sha256(images, labels, indices)", "False"
        ),
        [PARTIAL + "test_other_data_are_not_gone_on_with"],
    ),
    Defect(
        "certificates: images that change after their SHA-256 was stated",
        edit_method(UnchangedBatches, "__iter__", "!= digest", "!= digest and False"),
        [
            "tests/data/test_certified_data.py::test_images_that_change_meanwhile_are_not_certified",
            "tests/data/test_loaders.py::test_batches_that_have_changed_are_refused",
        ],
    ),
    Defect(
        "resume: lines of a certification that began meanwhile count",
        edit_method(PartialCertification, "_settings_bytes", "self._begun is None and ", ""),
        [
            f"{PARTIAL}test_the_certificates_of_a_certification_that_begins_meanwhile_are_not_taken[{number}]"
            for number in (1, 8)
        ],
    ),
    Defect(
        "certificates: files that appear meanwhile are replaced",
        edit(run_certification, "if appeared and not overwrite:", "if False:"),
        [PARTIAL + "test_files_that_appear_meanwhile_are_only_replaced_on_request"],
    ),
    Defect(
        "resumption: batches of another certification count",
        edit(_digest, "hashlib.sha256(begun).digest() + content", "content"),
        [PARTIAL + "test_batches_of_another_certification_do_not_count"],
    ),
    Defect(
        "evidence: the model may change after its bounds",
        attribute(Evidence, "_check", lambda self, unchanged: None),
        ["tests/certify/test_evidence.py::test_a_model_that_changes_after_its_bounds_is_not_certified_by_them"],
    ),
    Defect(
        "certify: settings may change meanwhile",
        edit(state_of, "settings_of(module) if of_lipnet_or_torch(module) else None", "None"),
        [TAMPERING + "test_a_model_that_changes_while_it_is_certified_is_an_error[setting]"],
    ),
    Defect(
        "certify: what occurs twice may change meanwhile",
        replace(_held_by, lambda module: []),
        [TAMPERING + "test_a_repetition_that_becomes_another_one_is_an_error"],
    ),
    Defect(
        "certify: classes may change meanwhile",
        edit(state_of, "type(module),", ""),
        [TAMPERING + "test_a_model_that_changes_while_it_is_certified_is_an_error[class]"],
    ),
    Defect(
        "certify: fused steps pass for no change",
        attribute(count_fused_step, "__code__", (lambda optimizer, *_: None).__code__),
        [TAMPERING + "test_a_model_that_changes_while_it_is_certified_is_an_error[fused step]"],
    ),
    Defect(
        "certify: weights in the memory of earlier ones pass for these",
        replace(_place_of, lambda tensor: (tensor.data_ptr(), version_of(tensor))),
        ["tests/layers/test_identity.py::test_another_view_of_the_same_memory_is_noticed[other dtype]"],
    ),
    Defect(
        "certify: settings of your own modules may change meanwhile",
        edit(check_own_modules, "if not bool((grown", "if False and not bool((grown"),
        [
            TAMPERING + "test_a_model_that_changes_while_it_is_certified_is_an_error[own setting]",
            "tests/training/test_api.py::test_a_module_of_ones_own_that_changes_during_an_evaluation_is_an_error",
        ],
    ),
    Defect(
        "certify: hooks may come meanwhile",
        edit(certify, "check_computes_as_declared(model)  # a hook may have come meanwhile", "pass"),
        [TAMPERING + "test_hooks_and_calls_that_come_while_a_model_is_certified_are_refused"],
    ),
    Defect(
        "bounds: weights that torch's other threads flush to zero count as 0",
        replace(_workers_flush, lambda threads: False),
        ["tests/certify/test_arithmetic.py::test_bounds_are_computed_alone_where_torchs_other_threads_flush"],
    ),
    Defect(
        "bounds: what they rest on is computed in another arithmetic",
        edit(bound_of, "explicit_arithmetic(module)", "torch.no_grad()"),
        [
            "tests/certify/test_torch_rules.py::test_a_parametrized_weight_is_the_one_of_the_certified_arithmetic",
            "tests/certify/test_arithmetic.py::test_bounds_are_computed_in_the_arithmetic_of_the_logits",
            "tests/certify/test_arithmetic.py::test_weights_that_torch_flushes_to_zero_count_in_bounds",
        ],
    ),
    Defect(
        "rules: a parametrized weight may be another one with gradients, where attacks search",
        edit(evaluated, "torch.enable_grad()", "torch.no_grad()"),
        [
            "tests/certify/test_torch_rules.py::"
            "test_a_parametrization_that_differs_with_and_without_gradients_is_refused"
        ],
    ),
    Defect(
        "rounding: values that overflow inside a module have a bound",
        edit(_step, "largest <= _LARGEST", "True"),
        ["tests/certify/test_rounding.py::test_values_whose_squares_or_sums_overflow_have_no_bound"],
    ),
    Defect(
        "rounding: a mean over a map without channels counts one of its dimensions",
        edit_method(_AdaptiveAvgPool2d, "rounding", "signal.shape[-2:]", "signal.shape[1:]"),
        ["tests/certify/test_rounding.py::test_maps_without_channels_are_averaged_over_all_their_pixels"],
    ),
    Defect(
        "reports: figures of the summary need not be those of the certificates",
        replace(_false_figures, lambda summary, rows: []),
        ["tests/certify/html/test_runs.py::test_figures_that_are_not_those_of_the_certificates_are_not_shown"],
    ),
    Defect(
        "checkpoints: the configuration may describe another model",
        replace(check_described, lambda model, config, trust=(): None),
        ["tests/models/test_checkpoint.py::test_a_model_that_was_changed_after_it_was_built_is_not_lost"],
    ),
    Defect(
        "resumption: another setting of a module of one's own",
        replace(_everything_of, settings_of),
        [
            PARTIAL + "test_other_settings_of_an_own_module_are_not_gone_on_with",
            "tests/layers/test_identity.py::test_all_attributes_and_the_code_of_your_own_modules_count",
        ],
    ),
    Defect(
        "resumption: lipnet's code may be another one",
        edit_method(Certification, "identity", '"code_sha256": code_sha256()', '"code": ""'),
        [
            PARTIAL + "test_batches_that_another_code_certified_do_not_count",
            "tests/certify/test_ranks.py::test_another_code_in_a_process_is_an_error",
        ],
    ),
    Defect(
        "settings: private ones of torch are left out",
        edit(_is_setting, "of_torch or not", "not"),
        ["tests/layers/test_identity.py::test_private_settings_of_torch_count"],
    ),
    Defect(
        "checks: settings that are NaN in numpy or in a tensor are accepted",
        replace(_is_nan, lambda value: isinstance(value, float) and value != value),
        ["tests/certify/test_checks.py::test_settings_that_are_no_numbers_are_refused"],
    ),
    Defect(
        "activations: a slope that is NaN counts as a small one",
        edit_method(
            _LeakyReLU, "lipschitz", "max(abs(module.negative_slope), 1.0)", "max(1.0, abs(module.negative_slope))"
        ),
        ["tests/certify/test_checks.py::test_a_slope_that_is_no_number_has_no_bound"],
    ),
    Defect(
        "checkpoints: buffers that are not saved may have other values",
        edit(check_described, "if _differ(constants, there, name)", "if False"),
        ["tests/models/test_checkpoint.py::test_a_buffer_that_is_not_saved_is_not_lost"],
    ),
    Defect(
        "trainings: the network may be another one than the described one",
        attribute(CertifiedClassifier, "_check_described", lambda self: None),
        ["tests/training/test_api.py::test_a_network_that_is_not_the_described_one_is_not_saved"],
    ),
    Defect(
        "averages: a shared parameter is saved without its average",
        edit_method(
            ExponentialMovingAverage,
            "on_save_checkpoint",
            "for name, own in names.items()",
            "for name, own in names.items() if name == own",
        ),
        ["tests/training/test_averaging.py::test_the_average_of_a_shared_parameter_is_saved_under_all_its_names"],
    ),
    Defect(
        "attack: another model than the certified one is attacked",
        replace(_check_model, lambda model, summary: None),
        ["tests/workflows/test_attacking.py::test_a_model_with_other_weights_is_refused"],
    ),
    Defect(
        "attack: its results are added to certificates that came meanwhile",
        edit(read_certified, "expected is not None and ", "False and "),
        [
            "tests/workflows/test_attacking.py::test_an_attack_is_not_added_to_certificates_that_came_meanwhile[sound]",
            "tests/workflows/test_attacking.py::test_an_attack_and_a_report_begin_with_the_certificates_just_made",
        ],
    ),
    Defect(
        "verification: flips and accuracies of an attack may contradict each other",
        replace(_agree, lambda *_: True),
        ["tests/workflows/test_verification.py::test_figures_of_an_attack_that_contradict_each_other_are_named"],
    ),
    Defect(
        "structured: block size, mixings and generators may contradict each other",
        attribute(StructuredOrthogonal, "check", lambda self: None),
        [
            "tests/structured/test_orthogonal_map.py::test_settings_that_contradict_each_other_or_the_generators_are_refused"
        ],
    ),
    Defect(
        "resumption: switches of lipnet are left out of your own modules",
        edit(_everything_of, "if name not in _OF_MODULES", "if name not in _OF_MODULES | _OF_LIPNET"),
        ["tests/layers/test_identity.py::test_names_of_lipnets_switches_are_settings_of_your_own_modules"],
    ),
    Defect(
        "samples: batches in a random order are certified",
        attribute(Certification, "_check_first", lambda self, images: None),
        ["tests/certify/test_run.py::test_batches_that_change_make_no_file"],
    ),
]
