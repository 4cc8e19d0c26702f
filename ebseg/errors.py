"""Errors that a user can cause and can mend. Each message names the input and the remedy."""


class EBSegError(Exception):
    """Base of every error this project raises on purpose; the command line prints it as one line."""


class Curable(EBSegError):
    """No photo, task or annotation is at fault: it passes, or somebody can put it right.

    What was asked for may well succeed later, so nothing is stored as if it were the answer.
    """


class Outage(Curable):
    """What a task stands on is away, or ended it: it passes by itself, so the same task is tried again."""


class ConfigError(Curable):
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
    """A photo or a Label Studio answer could not be fetched; one of the five below says whose fault it is."""


class NoPhoto(FetchError):
    """The task's own fault: no address, one that cannot be one, nothing there (404), or too large a file."""


class Refused(FetchError, Curable):
    """A server, or a rule of ours, does not give what it may have: access, address or settings are wrong."""


class TokenRefused(Refused):
    """Label Studio does not take the token that is set: expired, revoked, or of a kind that is off."""


class Unreachable(FetchError, Outage):
    """Label Studio itself does not answer, or says that it cannot now."""


class HostUnavailable(FetchError, Outage):
    """Another server of photos does not answer, or says that it cannot now."""


class LoopPaused(Outage):
    """The learning loop waits until Label Studio answers, or takes the token, again."""


class TrainingError(EBSegError):
    """A training run cannot start or go on: bad data, or a loss that is not finite."""


class RunNotWritten(TrainingError, Outage):
    """A training run's files cannot be written: the disk is full, or away."""


class AnnotationError(EBSegError):
    """An annotation or prediction cannot be read or made: damaged brush RLE, wrong size, unknown label."""


class DataError(EBSegError):
    """Training or evaluation data is missing, damaged, or not what its label list says."""
