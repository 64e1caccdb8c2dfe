"""What Hydra and OmegaConf raise of overrides that they do not expect, as a line for people."""

STUMBLES = (ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""Beside errors of their own."""


def unreadable(error: Exception) -> str:
    """One line for an override that Hydra does not expect, and stumbles over."""
    if "NoneType" in str(error):  # OmegaConf merges keys into what is there, and there is nothing
        return (
            "An override sets keys within one that is null, as model.shape is for most models: "
            "only a YAML file, such as one of conf/model, can set these."
        )
    return f"An override cannot be used: {' '.join(str(error).split())}"
