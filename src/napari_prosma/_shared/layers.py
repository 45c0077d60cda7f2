"""The widgets' one way to layers: they touch no layer's data, scale, affine or units themselves."""

from napari_prosma._shared.labels_scan import class_numbers, known_classes, lies_on, read_on
from napari_prosma._shared.layer_scan import METADATA, LayerScan, guess_axes, levels, read
from napari_prosma._shared.layer_view import Region, current_slice, slab_in_view, view_box
from napari_prosma._shared.result_layers import editable_copy, image_layer, is_result, labels_layer, refresh

__all__ = [
    "METADATA",
    "LayerScan",
    "Region",
    "class_numbers",
    "current_slice",
    "editable_copy",
    "guess_axes",
    "image_layer",
    "is_result",
    "known_classes",
    "labels_layer",
    "levels",
    "lies_on",
    "read",
    "read_on",
    "refresh",
    "slab_in_view",
    "view_box",
]
