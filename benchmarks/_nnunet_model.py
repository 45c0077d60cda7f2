"""Run by the Python that has nnU-Net: a folder of results with one model of random weights, as a training leaves it.

    PYTHON _nnunet_model.py FOLDER '{"widths": [32, 64], "tile": [40, 56, 40], "spacing": [1, 1, 1], "classes": 3}'

The plans are those that nnU-Net's planner writes for a scan of this spacing, so nothing is resampled. Prints the
versions, the learned values, and the operations of one tile as JSON.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch.utils.flop_counter import FlopCounterMode

CONFIGURATION, TRAINER = "3d_fullres", "nnUNetTrainer"
RESAMPLING = {
    f"resampling_fn_{what}{part}": value
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1))
    for part, value in (
        ("", "resample_data_or_seg_to_shape"),
        ("_kwargs", {"is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None}),
    )
}


def architecture(widths: list[int]) -> dict[str, Any]:
    """PlainConvUNet as planned, of these widths."""
    stages = len(widths)
    kwargs = {
        "n_stages": stages,
        "features_per_stage": widths,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans(asked: dict[str, Any]) -> dict[str, Any]:
    """What plans.json holds."""
    configuration = {
        "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": asked["tile"],
        "median_image_size_in_voxels": asked["tile"],
        "spacing": asked["spacing"],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        **RESAMPLING,
        "architecture": architecture(asked["widths"]),
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset001_Benchmark",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": asked["spacing"],
        "original_median_shape_after_transp": asked["tile"],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"mean": 0, "std": 1}},
    }


def main() -> None:
    """Write the folder and print."""
    results, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    planned = plans(asked)
    folder = results / planned["dataset_name"] / f"{TRAINER}__nnUNetPlans__{CONFIGURATION}"
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    labels = {"background": 0, **{f"class {i}": i for i in range(1, asked["classes"])}}
    dataset = {"channel_names": {"0": "scan"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (folder / "plans.json").write_text(json.dumps(planned), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    arch = planned["configurations"][CONFIGURATION]["architecture"]
    torch.manual_seed(0)
    network = get_network_from_plans(
        arch["network_class_name"],
        arch["arch_kwargs"],
        arch["_kw_requires_import"],
        1,
        asked["classes"],
        deep_supervision=False,
    )
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": TRAINER,
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": [0, 1, 2],
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    parameters = sum(p.numel() for p in network.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.to("meta")(torch.empty(1, 1, *asked["tile"], device="meta"))
    versions = {name: version(name) for name in ("nnunetv2", "torch")}
    print(json.dumps({**versions, "parameters": parameters, "flops": counter.get_total_flops()}))


if __name__ == "__main__":
    main()
