"""Gates recorded and edited: the record is what happened, the output is unchanged, and no hook remains afterwards."""

from __future__ import annotations

import pytest
import torch

from prosma_core.config.inspection import LevelEdit
from prosma_core.config.model import LITE0_STRIDES, ONE_SIDED, GateConfig, ModelConfig
from prosma_core.errors import ConfigError
from prosma_core.model.gate import HookPoint
from prosma_core.model.gate_hooks import GateRecord, counting, edited, estimate_removed, recording
from prosma_core.model.prox import THRESHOLDS
from prosma_core.model.unet import UNet, build_model
from prosma_core.model.weights import transfer, weights_of

FORMS = sorted(THRESHOLDS)
both_dims = pytest.mark.parametrize("dims", [2, 3])
every_network = pytest.mark.parametrize("dims", [2, 3, "lite0"])


def network(dims: int | str = 2, **gate: object) -> UNet:
    """Return a network of two gates, or of four over the pretrained encoder, whose channels differ in threshold."""
    n = 2 if isinstance(dims, str) else dims
    values = {"dims": n, "in_channels": 1, "num_classes": 3, "gate": GateConfig.parse(gate, "gate")}
    shape = {"widths": (4, 6, 8), "strides": ((1,) * n, (2,) * n, (2,) * n), "kernels": ((3,) * n,) * 3}
    if dims == "lite0":
        shape = {"widths": (4, 6, 8, 8, 8), "strides": LITE0_STRIDES, "kernels": ((3, 3),) * 5}
        values["encoder"] = "efficientnet-lite0"
    model = build_model(ModelConfig.parse({**values, **shape}, "The network"), seed=1).eval()
    with torch.no_grad():
        for part in model.skip_gates:
            if part.threshold() is not None:
                part.get_parameter("raw_threshold").add_(torch.linspace(-1, 1, len(part.threshold())))
    return model


def scan(dims: int | str = 2) -> torch.Tensor:
    size = (64, 64) if isinstance(dims, str) else (16,) * dims
    return torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def run(model: UNet, x: torch.Tensor, edits: tuple[LevelEdit, ...] = ()) -> tuple[torch.Tensor, list[GateRecord]]:
    """Return the output, and the records, finest level first."""
    records: dict[int, GateRecord] = {}
    with edited(model, edits), recording(model, records.__setitem__):
        out = model(x)
    return out, [records[level] for level in sorted(records)]


def is_watched(model: UNet) -> bool:
    """Whether a value of any gate has a hook."""
    return any(module.watched for module in model.modules() if isinstance(module, HookPoint))


@every_network
@pytest.mark.parametrize("form", FORMS)
def test_a_record_is_what_the_gate_did(dims: int | str, form: str) -> None:
    model, x = network(dims, form=form), scan(dims)
    with torch.no_grad():
        expected = model(x)
    out, records = run(model, x)
    assert torch.equal(out, expected)
    assert [r.z.shape[1] for r in records] == list(model.config.widths[:-1])
    n = model.config.dims
    for gate, r in zip(model.skip_gates, records, strict=True):
        per_channel = (1, -1, *(1,) * n)
        tau = r.tau.view(per_channel)
        small = r.z <= tau if form in ONE_SIDED else r.z.abs() <= tau
        if dims != "lite0":  # its deepest gates have few cells
            assert 0.05 < small.float().mean() < 0.95
        assert torch.equal(r.a == 0, small)
        torch.testing.assert_close(r.z, sum(r.fields, gate.offset.view(per_channel[1:])))
        assert torch.equal(r.after, r.c.view(*r.c.shape, *(1,) * n) * r.a * r.before)


@pytest.mark.parametrize("kind", ["attention", "none"])
def test_records_of_gates_without_thresholds(kind: str) -> None:
    model, x = network(kind=kind), scan()
    with torch.no_grad():
        expected = model(x)
    out, records = run(model, x)
    assert torch.equal(out, expected)
    for r in records:
        assert (r.fields, r.z, r.tau, r.c) == ((), None, None, None)
        assert r.a.shape == r.before.shape
        assert bool((r.a > 0).all())
        assert torch.equal(r.after, r.a * r.before)


@every_network
@pytest.mark.parametrize("form", FORMS)
def test_a_factor_of_1_changes_nothing_and_others_change_the_threshold(dims: int | str, form: str) -> None:
    model, x = network(dims, form=form), scan(dims)
    plain, before = run(model, x)
    same, _ = run(model, x, (LevelEdit(level=0), LevelEdit(level=1, threshold=1.0)))
    assert torch.equal(same, plain)
    changed, records = run(model, x, (LevelEdit(level=1, threshold=2.0),))
    assert not torch.equal(changed, plain)
    assert torch.equal(records[1].tau, 2 * before[1].tau)
    assert torch.equal(records[1].z, before[1].z)
    assert torch.equal(records[0].tau, before[0].tau)
    removed = [(r[1].a == 0) for r in (before, records)]
    assert bool((removed[0] <= removed[1]).all())
    assert removed[1].sum() > removed[0].sum()
    _, records = run(model, x, (LevelEdit(level=1, threshold=0),))
    if form not in ONE_SIDED:
        assert not bool((records[1].a == 0).any())


@every_network
@pytest.mark.parametrize("kind", ["prosma", "attention"])
def test_all_forced_open_is_the_plain_network_with_the_same_weights(dims: int | str, kind: str) -> None:
    model, plain, x = network(dims, kind=kind), network(dims, kind="none"), scan(dims)
    transfer(plain, weights_of(model.state_dict()))
    opened = tuple(LevelEdit(level=level, state="open") for level in range(len(model.skip_gates)))
    out, records = run(model, x, opened)
    assert torch.equal(out, plain(x))
    for r in records:
        assert torch.equal(r.after, r.before)
        assert bool((r.a == 1).all())


def test_closed_gates_and_channels_pass_nothing_and_open_channels_all() -> None:
    model, x = network(), scan()
    _, learned = run(model, x)
    edits = (LevelEdit(level=0, closed_channels=(1,), open_channels=(2, 3)), LevelEdit(level=1, state="closed"))
    _, (first, second) = run(model, x, edits)
    assert not bool(second.after.any())
    assert not bool(second.a.any())
    assert not bool(first.after[:, 1].any())
    assert not bool(first.a[:, 1].any())
    assert torch.equal(first.after[:, 2:], first.before[:, 2:])
    assert bool((first.a[:, 2:] == 1).all())
    assert torch.equal(second.before, learned[1].before)
    assert bool(first.after[:, 0].any())
    _, (first, _) = run(model, x, (LevelEdit(level=0, state="closed", open_channels=(2,)),))
    assert torch.equal(first.after[:, 2], first.before[:, 2])
    assert not bool(first.after[:, [0, 1, 3]].any())
    _, (first, _) = run(model, x, (LevelEdit(level=0, channel_gate=False),))
    assert torch.equal(first.after, first.a * first.before)
    assert bool((first.c == 1).all())


def test_whatever_happens_the_gates_are_as_before() -> None:
    model, x = network(), scan()
    with torch.no_grad():
        expected = model(x)

    def fail(level: int, _: GateRecord) -> None:
        msg = f"at {level}"
        raise RuntimeError(msg)

    with (
        pytest.raises(RuntimeError, match="at 1"),
        edited(model, (LevelEdit(level=0, state="closed"),)),
        recording(model, fail),
    ):
        model(x)
    with torch.no_grad():
        assert torch.equal(model(x), expected)
    assert not is_watched(model)
    with edited(model, (LevelEdit(level=0, state="closed"),)):
        with edited(model, (LevelEdit(level=0, state="open"),)):
            pass
        assert model.skip_gates[0].forced == "closed"
    assert model.skip_gates[0].forced is None


@pytest.mark.parametrize(
    ("gate", "edit", "words"),
    [
        ({}, {"level": 2, "threshold": 0}, "no level 2: the model has levels 0 .* to 1"),
        ({}, {"level": 1, "closed_channels": (6,)}, "no channel 6 at level 1: it has channels 0 to 5"),
        ({}, {"level": 0, "open_channels": (4,)}, "no channel 4 at level 0"),
        ({"channel_gate": False}, {"level": 0, "channel_gate": False}, "no channel gate"),
        ({"kind": "attention"}, {"level": 0, "threshold": 2}, "no threshold to multiply at level 0"),
        ({"kind": "attention"}, {"level": 0, "channel_gate": False}, "no channel gate"),
        ({"kind": "none"}, {"level": 0, "state": "closed"}, "plain U-Net"),
    ],
)
def test_what_a_gate_does_not_have_cannot_be_changed(gate: dict, edit: dict, words: str) -> None:
    model = network(**gate)
    with pytest.raises(ConfigError, match=words), edited(model, (LevelEdit.parse(edit, "edit"),)):
        pass
    assert not is_watched(model)


def test_a_level_is_changed_once() -> None:
    with pytest.raises(ConfigError, match="level 1 is changed twice"), edited(network(), (LevelEdit(level=1),) * 2):
        pass


def test_forward_to_gate_stops_at_the_finest_level_that_is_wanted() -> None:
    model, x = network(), scan()
    _, expected = run(model, x)
    for finest in (0, 1):
        found: dict[int, GateRecord] = {}
        with torch.no_grad(), recording(model, found.__setitem__):
            assert list(model.forward_to_gate(x, finest)) == [1, 0][: 2 - finest]
        assert sorted(found) == [0, 1][finest:]
        for level, record in found.items():
            assert torch.equal(record.z, expected[level].z)


def test_a_hook_on_a_value_reads_it_and_changes_it() -> None:
    model, x = network(), scan()
    gate = model.skip_gates[0]
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        expected = model(x)
        handle = gate.get_submodule("hook_z").register_forward_hook(lambda _, inputs, z: seen.append(z))
        assert torch.equal(model(x), expected)
        assert bool((seen[0].abs() <= gate.threshold().view(-1, 1, 1)).any())  # not overwritten by the gate's value
        handle.remove()
        for name in ("hook_x", "hook_q", "hook_tau", "hook_z", "hook_a", "hook_c", "hook_out"):
            handle = gate.get_submodule(name).register_forward_hook(lambda _, inputs, value: value.contiguous() * 1.5)
            assert not torch.equal(model(x), expected), name
            handle.remove()
        assert torch.equal(model(x), expected)


def test_the_estimate_is_the_fraction_that_is_counted_and_has_a_gradient() -> None:
    model, x = network(), scan()
    estimate_removed(model.skip_gates)
    with counting(model.skip_gates) as levels:
        model(x)
    for gate, level in zip(model.skip_gates, levels, strict=True):
        assert gate.estimate is not None
        assert gate.estimate.item() == pytest.approx(level.removed, abs=1e-6)
        gate.estimate.backward(retain_graph=True)
        assert bool(gate.get_parameter("raw_threshold").grad.abs().sum() > 0)
