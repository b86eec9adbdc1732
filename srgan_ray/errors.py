"""The one exception that a command turns into a single line and exit code 2."""


class InputError(ValueError):
    """What the user gave cannot be used. The message names what was found, what is wanted and the setting to change."""
