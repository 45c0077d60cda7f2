"""Gates that the package does not have: each does what it says, and can be trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

from prosma_core.config import GateConfig, ModelConfig
from prosma_core.model.gate import ProximalGate, SkipGate
from prosma_core.model.gate_hooks import GateRecord, counting, estimate_removed, recording_gate
from prosma_core.model.unet import UNet

GATES = ("self-gate", "normalized", "conditioned", "sharp", "grouped", "unrolled")
LIKE_OURS_AT_FIRST = ("conditioned", "unrolled")


def config(dims: int) -> ModelConfig:
    return ModelConfig(
        dims=dims,
        in_channels=1,
        num_classes=2,
        widths=(8, 16, 16),
        strides=((1,) * dims, (2,) * dims, (2,) * dims),
        kernels=((3,) * dims,) * 3,
        gate=GateConfig(threshold=0.1),
    )


def gates(ev: SimpleNamespace, variant: str, dims: int) -> tuple[ProximalGate, ProximalGate]:
    """A variant's finest gate, and the package's with the weights that both have."""
    model = ev.networks.build(config(dims), "own", 3, variant)
    plain = UNet(config(dims)).skip_gates[0]
    plain.load_state_dict(model.skip_gates[0].state_dict(), strict=False)
    return model.skip_gates[0], plain


def features(dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 8, *(8,) * dims, generator=made) for _ in range(2))  # type: ignore[return-value]


def value(gate: SkipGate, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """The gate's value a."""
    records: list[GateRecord] = []
    with recording_gate(gate, records.append):
        gate(x, g)
    return records[0].a


def test_every_variant_that_can_be_named_is_there(ev: SimpleNamespace) -> None:
    there = {*ev.variants.GATES, *ev.variants.LEVELS}
    assert set(get_args(ev.experiment.Variant)) == there
    assert set(GATES) == set(ev.variants.GATES)
    with pytest.raises(ValueError, match="There is no variant 'none'"):
        ev.networks.build(config(2), "own", 0, "none")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("variant", [*GATES, "finest-gate", "coarse-gates"])
def test_all_that_is_learned_has_a_gradient_and_the_same_seed_gives_the_same(
    ev: SimpleNamespace, variant: str, dims: int
) -> None:
    model, again = (ev.networks.build(config(dims), "own", 3, variant) for _ in range(2))
    x = torch.randn(1, 1, *(8,) * dims, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), again(x))
    estimate_removed(model.skip_gates)
    logits = model.forward_deep(x)
    removed = [gate.estimate for gate in model.skip_gates if gate.estimate is not None]
    (sum(level.square().mean() for level in logits) + sum(removed)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("variant", GATES)
def test_it_differs_from_the_packages_gate_in_one_thing(ev: SimpleNamespace, variant: str, dims: int) -> None:
    changed, ours = gates(ev, variant, dims)
    x, g = features(dims)
    same = torch.allclose(changed(x, g), ours(x, g), atol=1e-5)
    assert same == (variant in LIKE_OURS_AT_FIRST)
    if variant == "self-gate":
        assert torch.allclose(changed(x, g), ours(x, x), atol=1e-5)
        assert torch.equal(changed(x, g), changed(x, -g))
    if variant == "sharp":
        torch.nn.init.ones_(changed.get_parameter("sharpness"))
        assert torch.allclose(changed(x, g), ours(x, g), atol=1e-5)
    if variant == "normalized":
        torch.nn.init.zeros_(changed.project_skip.bias)
        assert torch.allclose(value(changed, x, g), value(changed, 3 * x, 3 * g), atol=1e-3)


def test_what_the_new_weights_of_a_variant_do(ev: SimpleNamespace) -> None:
    x, g = features(2)
    moved, _ = gates(ev, "conditioned", 2)
    before = value(moved, x, g)
    torch.nn.init.constant_(moved.context[2].bias, math.log(100))
    assert (value(moved, x, g) == 0).sum() > (before == 0).sum()
    unrolled, _ = gates(ev, "unrolled", 2)
    before = value(unrolled, x, g)
    torch.nn.init.constant_(unrolled.get_parameter("momentum"), -1.0)
    assert (value(unrolled, x, g) == 0).sum() > (before == 0).sum()


def test_groups_are_kept_or_removed_together(ev: SimpleNamespace) -> None:
    gate = ev.networks.build(config(3), "own", 3, "grouped").skip_gates[1]
    torch.nn.init.constant_(gate.raw_threshold, 0.0)  # softplus(0) = 0.69
    made = torch.Generator().manual_seed(0)
    x, g = (torch.randn(2, 16, 8, 8, 8, generator=made) for _ in range(2))
    removed = value(gate, x, g).unflatten(1, (-1, ev.variants.GROUP)) == 0
    share = removed.float().mean(2)
    assert share.shape[1] == 2
    assert set(share.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(share[:, 0], share[:, 1])


def test_thresholds_are_multiplied_and_put_back(ev: SimpleNamespace) -> None:
    model = ev.networks.build(config(2), "own", 3)
    before = [gate.threshold().detach() for gate in model.skip_gates]
    for scale in (0, 0.5, 100):
        with ev.judge.thresholds_times(model, scale):
            found = [gate.threshold() for gate in model.skip_gates]
        for tau, times in zip(before, found, strict=True):
            torch.testing.assert_close(times, scale * tau)
    assert all(torch.equal(tau, gate.threshold()) for tau, gate in zip(before, model.skip_gates, strict=True))


def test_levels_without_a_gate_pass_everything(ev: SimpleNamespace) -> None:
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for variant, open_levels in (("finest-gate", [False, True]), ("coarse-gates", [True, False])):
        model = ev.networks.build(config(2), "own", 0, variant)
        with counting(model.skip_gates) as levels:
            model(x)
        assert [level.threshold is None for level in levels] == open_levels
        assert [level.removed == 0 for level in levels] == open_levels


def test_row_with_a_variant_is_trained_and_judged(
    ev: SimpleNamespace, experiment: Callable[..., Any], data: Path
) -> None:
    changes = {"training": {"removed_target": 0.5}}
    rows = {"prosma": {"set": changes}, "grouped": {"variant": "grouped", "rate_of": "prosma", "set": changes}}
    made, out = experiment(rows=rows), data / "out"
    while runs := ev.runs.ready(made, ev.runs.read_results(out)):
        ev.one.measure(runs[0], data, out, data / "work", "cpu")
    found = {result["row"]: result for result in ev.runs.read_results(out)}
    assert found["grouped"]["config"]["variant"] == "grouped"
    assert "variant" not in found["prosma"]["config"]
    assert found["grouped"]["levels"] != found["prosma"]["levels"]
