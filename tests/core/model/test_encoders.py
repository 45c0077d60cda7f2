"""The pretrained encoder: its published features, the contract of a network on it, and missing or damaged weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prosma_core.config.model import LITE0_STRIDES, GateConfig, ModelConfig, weights_file
from prosma_core.config.training import TrainingConfig, resolve_run, with_defaults
from prosma_core.errors import ConfigError, GeometryError, ModelFileError
from prosma_core.model.gate_hooks import counting
from prosma_core.model.pretrained import imagenet_weights
from prosma_core.model.unet import UNet, build_model
from prosma_core.training.optimization import SegmentationLoss, build_optimizer, set_rate

KINDS = {kind: GateConfig(kind=kind) for kind in ("prosma", "attention", "none")}


def config(gate: GateConfig = KINDS["prosma"], **changes: object) -> ModelConfig:
    values = {
        "dims": 2,
        "in_channels": 1,
        "num_classes": 3,
        "encoder": "efficientnet-lite0",
        "widths": (6, 8, 10, 12, 14),
        "strides": LITE0_STRIDES,
        "kernels": ((3, 3),) * 5,
        "gate": gate,
    }
    return ModelConfig.parse({**values, **changes}, "The network")


def images(channels: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(2, channels, 64, 96, generator=torch.Generator().manual_seed(seed))


def test_features_are_those_of_another_implementation_with_the_published_weights() -> None:
    from monai.networks.nets.efficientnet import EfficientNet

    blocks = [
        "r1_k3_s11_e1_i32_o16",
        "r2_k3_s22_e6_i16_o24",
        "r2_k5_s22_e6_i24_o40",
        "r3_k3_s22_e6_i40_o80",
        "r3_k5_s11_e6_i80_o112",
        "r4_k5_s22_e6_i112_o192",
        "r1_k3_s11_e6_i192_o320",
    ]
    peer = EfficientNet(blocks, image_size=64, norm=("batch", {"eps": 1e-3}))
    published = imagenet_weights()
    with torch.no_grad():
        for value, given in zip(peer.state_dict().values(), published.values(), strict=True):
            value.copy_(given)
    for module in peer.modules():
        if hasattr(module, "_swish"):
            module._swish = nn.ReLU6()
    peer.eval()

    ours = build_model(config(in_channels=3))
    ours.load_pretrained(published)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found: list[Tensor] = []
    for reduce in ours.encoder.reduce:  # what each level's projection takes
        reduce.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    with torch.no_grad():
        ours.encode(x)
        y = peer._swish(peer._bn0(peer._conv_stem(peer._conv_stem_padding(x))))
        wanted = []
        for stage in peer._blocks:
            for block in stage:
                y = block(y)
            wanted.append(y)
    for mine, theirs in zip(found, [wanted[i] for i in (0, 1, 2, 4, 6)], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_network_on_it_gives_logits_on_the_input_grid_and_backward_reaches_every_weight(kind: str) -> None:
    model = build_model(config(KINDS[kind]), seed=0)
    x = images()
    levels = model.forward_deep(x)
    assert [tuple(level.shape) for level in levels] == [(2, 3, 64 >> i, 96 >> i) for i in range(1, 5)]
    with torch.no_grad():
        assert model(x).shape == (2, 3, 64, 96)
    sum(level.square().mean() for level in levels).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without
    assert len(model.skip_gates) == 4


def test_one_channel_is_shown_to_all_three() -> None:
    gray, color = build_model(config(), seed=0), build_model(config(in_channels=3), seed=0)
    color.load_state_dict(gray.state_dict())
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(gray(x), color(x.expand(-1, 3, -1, -1)))


def test_removed_activations_are_counted_at_every_skip() -> None:
    model = build_model(config(GateConfig(threshold=3.0)), seed=0).eval()
    with torch.no_grad(), counting(model.skip_gates) as levels:
        model(images())
    assert len(levels) == 4
    assert all(level.removed > 0.1 for level in levels)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_channels": 2}, "1 or 3 channels"),
        ({"dims": 3, "strides": ((2, 2, 2),) * 5, "kernels": ((3, 3, 3),) * 5}, "2D images"),
        ({"strides": ((1, 1), *LITE0_STRIDES[1:])}, "5 levels"),
        ({"widths": (4, 8), "strides": LITE0_STRIDES[:2], "kernels": ((3, 3),) * 2}, "5 levels"),
    ],
)
def test_a_network_that_cannot_be_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**changes)


def test_an_image_that_is_no_multiple_of_32_is_refused() -> None:
    with pytest.raises(GeometryError, match="multiple of 32"):
        UNet(config())(torch.zeros(1, 1, 48, 64))


def test_only_pretrained_weights_take_their_share_of_the_rate() -> None:
    model = build_model(config(), seed=0)
    optimizer = build_optimizer(model, TrainingConfig(encoder_rate=0.1))
    set_rate(optimizer, 0.01)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        learned_before = name.startswith(("encoder.stem", "encoder.blocks"))
        assert rates[id(parameter)] == pytest.approx(0.001 if learned_before else 0.01), name


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_the_loss_takes_logits_that_are_coarser_than_the_labels(deep: bool, masked: bool) -> None:
    model = build_model(config(), seed=0)
    labels = torch.zeros(2, 1, 64, 96, dtype=torch.long)
    labels[..., :32] = 1
    loss = SegmentationLoss(TrainingConfig(deep_supervision=deep), masked=masked)
    assert torch.isfinite(loss(model.forward_deep(images()), labels))


def test_missing_weights_are_said_and_residual_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prosma_core.config.model.PACKAGE", "efficientnet-nowhere")
    assert weights_file() is None
    with pytest.raises(ModelFileError, match=r"not installed.*residual"):
        imagenet_weights()


def test_damaged_or_replaced_weights_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = weights_file()
    assert path is not None
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "weights.pth"
    damaged.write_bytes(content)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a file of unknown content was read"))
    with pytest.raises(ModelFileError, match=r"damaged or replaced.*residual"):
        imagenet_weights(damaged)
    with pytest.raises(ModelFileError, match="cannot be read"):
        imagenet_weights(tmp_path / "nothing.pth")


def test_what_was_chosen_wins_over_the_defaults_of_an_encoder() -> None:
    run = resolve_run({"out": "m", "preset": "quick", "training": {"batch_size": 2}})
    assert "batch_size" in run.training.model_fields_set
    assert "epochs" not in run.training.model_fields_set  # of the preset
    changed = with_defaults(run, {"training": {"batch_size": 4, "learning_rate": 3e-3, "augment": {"shift": 0.2}}})
    assert (changed.training.batch_size, changed.training.learning_rate) == (2, 3e-3)
    assert changed.training.augment.shift == 0.2
    assert changed.training.epochs == run.training.epochs
    assert changed.model_fields_set == run.model_fields_set


@pytest.mark.slow
def test_a_network_on_it_is_exported_with_the_same_logits() -> None:
    model, x = build_model(config(), seed=0).eval(), images()[:1, :, :64, :64]
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), model(x), atol=1e-4, rtol=1e-4)
