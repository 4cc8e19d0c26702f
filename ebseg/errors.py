"""Errors that a user can cause and can mend. Each message names the input and the remedy."""


class EBSegError(Exception):
    """Base of every error this project raises on purpose; the command line prints it as one line."""


class Outage(EBSegError):
    """What a task stands on is away, or ended it: the same task may well succeed later."""


class ConfigError(EBSegError):
    """A setting, a variant or a model name is unknown or inconsistent."""


class InUse(EBSegError):
    """Another process holds what only one may use at a time."""


class MlflowUnavailable(ConfigError, Outage):
    """MLflow's store does not answer, or cannot be used: it may later."""


class CheckpointError(EBSegError):
    """A checkpoint is missing, of another model, damaged, or could not be downloaded."""


class VocabularyError(EBSegError):
    """A label set is empty, has an empty name or a duplicate, or is too large."""


class ImageError(EBSegError):
    """A photo cannot be read, is too large, or is not an image."""


class LabelConfigError(EBSegError):
    """A Label Studio label config has no image, no mask control, or cannot be parsed."""


class FetchError(EBSegError):
    """A photo or a Label Studio answer could not be fetched: address, token, size, time."""


class Unreachable(FetchError, Outage):
    """Label Studio itself does not answer, or says that it cannot now."""


class TrainingError(EBSegError):
    """A training run cannot start or go on: bad data, or a loss that is not finite."""


class RunNotWritten(TrainingError, Outage):
    """A training run's files cannot be written: the disk is full, or away."""


class AnnotationError(EBSegError):
    """An annotation or prediction cannot be read or made: damaged brush RLE, wrong size, unknown label."""


class DataError(EBSegError):
    """Training or evaluation data is missing, damaged, or not what its label list says."""
