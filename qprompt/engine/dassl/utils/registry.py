"""Tables of classes by name: the only lists of trainers, data sets and evaluators."""

__all__ = ["Registry"]


class Registry:
    """Classes or functions by their ``__name__``. Registering a second one with the same name is an error.

    Use ``@REGISTRY.register()`` above a class, or ``REGISTRY.register(cls)``.
    """

    def __init__(self, name):
        self._name = name
        self._obj_map = {}

    def register(self, obj=None, force=False):
        """Add `obj`, or return a decorator that does; `force` replaces an entry with the same name."""
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
        """Return the object registered as `name`; KeyError if there is none."""
        if name not in self._obj_map:
            raise KeyError(f'Object name "{name}" does not exist in "{self._name}" registry')
        return self._obj_map[name]

    def registered_names(self):
        """Return all names in the order of registration."""
        return list(self._obj_map)
