"""Every setting of the project, as frozen pydantic models; a default is written here and nowhere else."""

from prosma_core.config.base import Config
from prosma_core.config.inference import InferenceConfig
from prosma_core.config.model import ChannelIntensity, ClassInfo, GateConfig, ModelConfig, ModelHeader, PreprocessConfig
from prosma_core.config.training import AugmentConfig, NetworkOptions, PlanOptions, RunConfig, TrainingConfig

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
