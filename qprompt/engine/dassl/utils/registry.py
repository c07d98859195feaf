"""A name -> class table: the only list and the only dispatch of trainers, data sets and evaluators."""

__all__ = ["Registry"]


class Registry:
    """Classes or functions under their own ``__name__``; a second one of the same name is an error.

    ``@REGISTRY.register()`` above a class, or ``REGISTRY.register(cls)``.
    """

    def __init__(self, name):
        self._name = name
        self._obj_map = {}

    def register(self, obj=None, force=False):
        """Add `obj`, or return a decorator that does. `force` replaces what has that name."""
        if obj is None:
            return lambda decorated: self._add(decorated, force)
        return self._add(obj, force)

    def _add(self, obj, force):
        name = obj.__name__
        if name in self._obj_map and not force:
            raise KeyError(f'An object named "{name}" was already registered in "{self._name}" registry')
        self._obj_map[name] = obj
        return obj

    def get(self, name):
        """The object registered as `name`; KeyError when there is none."""
        if name not in self._obj_map:
            raise KeyError(f'Object name "{name}" does not exist in "{self._name}" registry')
        return self._obj_map[name]

    def registered_names(self):
        """All names, in order of registration."""
        return list(self._obj_map)
