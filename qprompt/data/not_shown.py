"""The error of a picture that has no one right version."""


class NotShown(ValueError):
    """An image for which there is no one right picture, or none that Pillow gets right; the message says why."""
