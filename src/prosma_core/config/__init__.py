"""Every setting of the project, as frozen pydantic models; a default is written here and nowhere else."""

from prosma_core.config.base import Config
from prosma_core.config.header import ModelHeader
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ClassInfo, GateConfig, ModelConfig
from prosma_core.config.preprocess import ChannelIntensity, PreprocessConfig
from prosma_core.config.run import NetworkOptions, PlanOptions, RunConfig
from prosma_core.config.training import AugmentConfig, TrainingConfig

__all__ = [
    "AugmentConfig",
    "ChannelIntensity",
    "ClassInfo",
    "Config",
    "GateConfig",
    "InferenceConfig",
    "ModelConfig",
    "ModelHeader",
    "NetworkOptions",
    "PlanOptions",
    "PreprocessConfig",
    "RunConfig",
    "TrainingConfig",
]
