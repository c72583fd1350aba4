"""The one exception of innerloop."""


class InnerloopError(ValueError):
    """A mistake of the caller, told in one sentence: what is wrong, its value, and the mend."""
