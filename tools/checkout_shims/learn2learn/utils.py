"""Clones of modules through which gradients flow to the original, and updates of them that can be differentiated."""


def clone_module(module, memo=None):
    """Return a module of the same class whose parameters and buffers are differentiable copies of those of `module`."""
    memo = {} if memo is None else memo

    def copied(tensor):
        if tensor is None:
            return None
        if id(tensor) not in memo:
            memo[id(tensor)] = tensor.clone() if tensor.requires_grad else tensor
        return memo[id(tensor)]

    clone = module.__new__(type(module))
    clone.__dict__ = module.__dict__.copy()
    clone._parameters = {name: copied(value) for name, value in module._parameters.items()}
    clone._buffers = {name: copied(value) for name, value in module._buffers.items()}
    clone._modules = {
        name: None if part is None else clone_module(part, memo) for name, part in module._modules.items()
    }
    return clone


def update_module(module, updates=None, memo=None):
    """Add to each parameter of a clone its `updates` (by default its ``.update``), out of place; return the clone."""
    memo = {} if memo is None else memo
    if updates is not None:
        for parameter, update in zip(module.parameters(), updates, strict=True):
            parameter.update = update
    for part in module.modules():
        for name, value in part._parameters.items():
            update = getattr(value, "update", None)
            if value is None or update is None:
                continue
            if id(value) not in memo:
                memo[id(value)] = value + update
            part._parameters[name] = memo[id(value)]
    return module
