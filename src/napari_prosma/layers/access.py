"""The widgets' one way to layers: they touch no layer's data, scale, affine or units themselves."""

from napari_prosma.layers.labels import class_numbers, known_classes, lies_on, read_on
from napari_prosma.layers.maps import (
    cross_layer,
    cross_voxel,
    field_layer,
    map_layer,
    mask_layer,
    move_cross,
    renew_layer,
    set_limits,
)
from napari_prosma.layers.results import (
    editable_copy,
    image_layer,
    is_result,
    labels_layer,
    objects_layer,
    refresh,
    show_labels,
)
from napari_prosma.layers.scan import METADATA, LayerScan, are_channels, guess_axes, joined_layer, levels, read
from napari_prosma.layers.scan import read_channels as read_channel_layers
from napari_prosma.layers.viewport import (
    Region,
    current_slice,
    show_channel,
    shown_channel,
    slab_in_view,
    view_box,
    voxel_at,
)

__all__ = [
    "METADATA",
    "LayerScan",
    "Region",
    "are_channels",
    "class_numbers",
    "cross_layer",
    "cross_voxel",
    "current_slice",
    "editable_copy",
    "field_layer",
    "guess_axes",
    "image_layer",
    "is_result",
    "joined_layer",
    "known_classes",
    "labels_layer",
    "levels",
    "lies_on",
    "map_layer",
    "mask_layer",
    "move_cross",
    "objects_layer",
    "read",
    "read_channel_layers",
    "read_on",
    "refresh",
    "renew_layer",
    "set_limits",
    "show_channel",
    "show_labels",
    "shown_channel",
    "slab_in_view",
    "view_box",
    "voxel_at",
]
