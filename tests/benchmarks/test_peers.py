"""The tables show the measured figures, and the file keeps those of other runs."""

import json
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from benchmarks import peers
from benchmarks.lipconvnet import PLAIN, VARIANTS
from benchmarks.peer_layers import PEERS, OrthogonalPointwise, Peer
from benchmarks.peers import EVALUATION, EXPORTED, KINDS, TRAINING, main, orthogonality_table, time_table, times
from lipnet.models import LipConvNet

POINTWISE = "torch orthogonal (Cayley), 1 x 1"
SMALL = partial(LipConvNet, depth=5, initial_channels=2, conv=OrthogonalPointwise)
ORTHOGONALITY = {
    "steps": 2,
    "layers": {
        "training": {"stride 1": [0.5, 1.0], "stride 2": [0.25, 1.5]},
        "evaluation": {"stride 1": [0.75, 1.0], "stride 2": [0.0, 2.0]},
    },
    "network": {"training": 0.9, "evaluation": 0.8, "product": 1.1},
}


def cells(table: peers.Table) -> list[list[str]]:
    return [list(row) for row in zip(*(column.cells for column in table.columns), strict=True)]


def test_times_are_multiples_of_the_plain_network() -> None:
    networks = {PLAIN: partial(VARIANTS[PLAIN], depth=5, initial_channels=2), POINTWISE: SMALL}
    results = times(networks, batch=1, rounds=1, device=torch.device("cpu"))
    assert list(results) == [PLAIN, POINTWISE]
    assert results[PLAIN]["multiples"] == dict.fromkeys(KINDS, 1.0)
    assert list(results[POINTWISE]["median_seconds"]) == list(KINDS)
    plain = results[PLAIN]["median_seconds"]
    for kind in KINDS:
        expected = results[POINTWISE]["median_seconds"][kind] / plain[kind]
        assert results[POINTWISE]["multiples"][kind] == expected


def test_tables_have_a_row_for_each_network_and_dashes_for_missing_figures() -> None:
    results = {
        "one": {"times": {"128": {"multiples": {TRAINING: 2.0, EVALUATION: 3.0, EXPORTED: 1.5}}}},
        "two": {"times": {"32": {"multiples": {TRAINING: 4.0, EVALUATION: 5.0}}}, "orthogonality": ORTHOGONALITY},
    }
    assert [column.header for column in time_table(results).columns[1:]] == [
        f"{kind}, batch {batch}" for batch in (32, 128) for kind in KINDS
    ]
    assert cells(time_table(results)) == [
        ["one", "-", "-", "-", "2.00", "3.00", "1.50"],
        ["two", "4.00", "5.00", "-", "-", "-", "-"],
    ]
    assert cells(orthogonality_table(results)) == [
        ["two", "training", "0.5", "1", "0.25", "1.5", "0.9", "-"],
        ["two", "evaluation", "0.75", "1", "0", "2", "0.8", "1.1"],
    ]


def test_a_run_adds_to_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(PEERS, POINTWISE, Peer("torch", SMALL))
    monkeypatch.setitem(VARIANTS, PLAIN, partial(VARIANTS[PLAIN], depth=5, initial_channels=2))
    path = tmp_path / "peers.json"
    before = {"another": {"times": {"4": {"multiples": {TRAINING: 2.0}}}}, POINTWISE: {"orthogonality": ORTHOGONALITY}}
    path.write_text(json.dumps(before))
    arguments = f"--parts times --batch 1 --rounds 1 --output {path} --only".split()
    monkeypatch.setattr("sys.argv", ["peers", *arguments, POINTWISE])
    main()
    after = json.loads(path.read_text())
    assert list(after) == ["another", POINTWISE, PLAIN]
    assert after["another"] == before["another"]
    assert after[POINTWISE]["orthogonality"] == ORTHOGONALITY
    assert after[PLAIN]["times"]["1"]["multiples"][TRAINING] == 1
    assert after[POINTWISE]["times"]["1"]["machine"]["rounds"] == 1
    assert after[POINTWISE]["times"]["1"]["machine"]["packages"]["torch"] == version("torch")


def test_impossible_counts_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["peers", "--rounds", "0", "--batch", "8"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "at least 1, got 0 and [8]" in capsys.readouterr().err
