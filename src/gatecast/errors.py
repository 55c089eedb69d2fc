"""The errors of gatecast: one root, each with the exit status that the command line returns for it."""


class GatecastError(Exception):
    """Something that is the user's to mend; the command line prints it as one line, never as a traceback."""

    exit_status = 1


class DataError(GatecastError):
    """A candle file, a stored file or an answer of an exchange cannot be used."""


class NetworkFault(GatecastError):
    """The network or the far side failed in a way that may pass: worth another try later."""


class StageFailed(GatecastError):
    """A DVC stage ended without its outputs; carries the stage's own line and exit status."""

    def __init__(self, line: str, exit_status: int) -> None:
        super().__init__(line)
        self.exit_status = exit_status


class ConfigurationError(GatecastError):
    """A key, a value or a command line argument is not one that gatecast knows."""

    exit_status = 2


class GateRefused(GatecastError):
    """A gate (validation, leak proof, promotion) said no; the message is its reason."""

    exit_status = 3
