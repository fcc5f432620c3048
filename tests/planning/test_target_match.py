"""Which targets describe a machine that was measured."""

from __future__ import annotations

import pytest

from paddock.errors import BadSetting
from paddock.model.gpu import Gpu
from paddock.model.hardware import Machine
from paddock.planning.target_match import specificity
from paddock.planning.targets import CARDS_MIB


def machine(*gpus: tuple[str, int], ram_gib: float = 62.7) -> Machine:
    cards = tuple(Gpu(name, mib * 2**20, 0) for name, mib in gpus)
    return Machine("A CPU", 8, round(ram_gib * 2**30), 0, cards)


@pytest.mark.parametrize(
    ("target", "gpus"),
    [
        ("rtx-4090", [("NVIDIA GeForce RTX 4090", 24_080)]),
        ("RTX-4090 ", [("NVIDIA GeForce RTX 4090", 24_080)]),
        ("2x-rtx-4090", [("NVIDIA GeForce RTX 4090", 24_080)] * 2),
        ("rtx-4090+64GiB", [("NVIDIA GeForce RTX 4090", 24_080)]),
        ("rtx-4060-ti-16gb", [("NVIDIA GeForce RTX 4060 Ti", 15_900)]),
        ("a100-80gb", [("NVIDIA A100-SXM4-80GB", 81_000)]),
        ("a100-40gb", [("NVIDIA A100-PCIE-40GB", 40_400)]),
        ("h100-80gb", [("NVIDIA H100 80GB HBM3", 81_079)]),
        ("v100-16gb", [("Tesla V100-SXM2-16GB", 16_100)]),
        ("rtx-6000-ada", [("NVIDIA RTX 6000 Ada Generation", 48_600)]),
        ("24GiB-gpu", [("NVIDIA GeForce RTX 4090", 24_080)]),
        ("4x-24GiB-gpu+64GiB", [("a card of tomorrow", 24_080)] * 4),
        ("64GiB", []),
        ("any", []),
        ("any", [("NVIDIA H200", 143_000)]),
    ],
)
def test_a_target_describes_a_machine(target: str, gpus: list[tuple[str, int]]) -> None:
    assert specificity(target, machine(*gpus), is_this_machine=False) > 0


@pytest.mark.parametrize(
    ("target", "gpus"),
    [
        pytest.param("rtx-4090", [("NVIDIA GeForce RTX 4090", 24_080)] * 2, id="two cards"),
        pytest.param("2x-rtx-4090", [("NVIDIA GeForce RTX 4090", 24_080)], id="one card"),
        pytest.param("rtx-4090", [("NVIDIA GeForce RTX 4090 D", 24_080)], id="a card of another name"),
        pytest.param("rtx-4080", [("NVIDIA GeForce RTX 4080 SUPER", 16_000)], id="a faster one"),
        pytest.param("a100-80gb", [("NVIDIA A100-PCIE-40GB", 40_400)], id="less memory"),
        pytest.param("h100-80gb", [("NVIDIA H100 NVL", 95_000)], id="more memory"),
        pytest.param("rtx-4090+128GiB", [("NVIDIA GeForce RTX 4090", 24_080)], id="less host memory"),
        pytest.param("64GiB", [("NVIDIA GeForce RTX 4090", 24_080)], id="a GPU beside the memory"),
        pytest.param("32GiB", [], id="more main memory"),
        pytest.param("128GiB", [], id="less main memory"),
        pytest.param("rtx-4090", [], id="no GPU"),
        pytest.param("this-machine", [], id="not this machine"),
    ],
)
def test_a_target_does_not_describe_another_machine(target: str, gpus: list[tuple[str, int]]) -> None:
    assert specificity(target, machine(*gpus), is_this_machine=False) == 0


def test_a_name_says_more_than_a_size_and_a_size_more_than_any() -> None:
    owner = machine(("NVIDIA GeForce RTX 4090", 24_080))
    targets = ["any", "24GiB-gpu", "this-machine", "rtx-4090", "rtx-4090+64GiB"]
    found = [specificity(target, owner, is_this_machine=True) for target in targets]
    assert found == sorted(found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("card", CARDS_MIB)
def test_each_known_card_is_described_by_its_own_name_alone(card: str) -> None:
    owner = machine((f"NVIDIA {card.replace('-', ' ').upper()}", CARDS_MIB[card]))
    assert [name for name in CARDS_MIB if specificity(name, owner, is_this_machine=False)] == [card]


def test_what_is_no_target_is_refused() -> None:
    with pytest.raises(BadSetting):
        specificity("a mainframe", machine(), is_this_machine=False)
