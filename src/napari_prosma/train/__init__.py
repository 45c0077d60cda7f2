"""The Train widget: train and fine-tune models on annotated layers and files."""

from napari_prosma.train.widget import TrainWidget

__all__ = ["TrainWidget"]
