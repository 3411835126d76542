"""The digest of source files tells checkouts of one version apart."""

from __future__ import annotations

from pathlib import Path

import torch

from lipnet.functional.digest import code_sha256, tensors_sha256


def test_any_change_of_the_source_files_counts(tmp_path: Path) -> None:
    found = []
    for number, files in enumerate(
        ({"a.py": "x = 1"}, {"a.py": "x = 2"}, {"b.py": "x = 1"}, {"a.py": "x = 1", "inner/b.py": ""})
    ):
        package = tmp_path / str(number)
        for name, content in files.items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(content)
        (package / "notes.txt").write_text(str(number))
        found.append(code_sha256(package))
    assert len(set(found)) == len(found)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "a.py").write_text("x = 1")
    assert code_sha256(copy) == found[0]


def test_the_default_is_lipnet() -> None:
    assert code_sha256() == code_sha256(Path(__file__).parents[2] / "lipnet")


def test_tensors_that_are_stored_as_negatives_or_conjugates_count_by_their_values() -> None:
    pair = torch.tensor([1 + 2j, 3 - 1j])
    for stored, value in ((pair.conj().imag, -pair.imag), (pair.conj(), pair.conj().resolve_conj())):
        assert tensors_sha256({"a": stored}) == tensors_sha256({"a": value})


def test_a_single_entry_of_a_tensor_with_gaps_counts() -> None:
    """Such a tensor is contiguous for torch, although its stride is not 1."""
    gaps = torch.tensor([1 + 2j]).imag
    assert gaps.stride() == (2,)
    assert tensors_sha256({"": gaps}) == tensors_sha256({"": torch.tensor([2.0])}) != tensors_sha256({"": -gaps})
