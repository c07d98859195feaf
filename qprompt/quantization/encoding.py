"""What a quantized tensor is encoded to, and the cache that hands one encoding from `refresh_` to the forward pass."""

from typing import NamedTuple

from torch import Tensor, nn

from qprompt.quantization.codebook import is_compiling


class Encoded(NamedTuple):
    """Weights as they are stored (G groups of L entries, k levels per group), and what they were computed from."""

    indices: Tensor  # (G, L), an integer type
    levels: Tensor  # (G, k) float16
    values: Tensor  # W_q (G, L) in the type of W
    normalized: Tensor  # W_hat (G, L) float32
    sigma: Tensor  # (G, 1)

    def split(self, parts: int) -> list["Encoded"]:
        """Split the groups into equal parts, one per tensor of a batch."""
        if parts == 1:
            return [self]
        return [Encoded(*part) for part in zip(*(tensor.chunk(parts) for tensor in self), strict=True)]


class EncodingCache:
    """The encoding of one weight, for the next forward pass only.

    It is valid while torch counts no change of the weight in place (`_version`) and the weight lies where it lay. A
    pass takes it once: a second pass encodes again, so that a change which torch does not count (through ``.data``)
    cannot stay unseen for more than one pass.
    """

    def __init__(self) -> None:
        self._entry: tuple[tuple[int, int], Encoded] | None = None
        self._ahead = False

    @staticmethod
    def version(weight: Tensor) -> tuple[int, int]:
        """Return what is another one after a change of the weight."""
        return weight._version, weight.data_ptr()

    def put(self, weight: Tensor, encoded: Encoded, ahead: tuple[int, int] | None = None) -> None:
        """Store the encoding of `weight`, unless it is not trained (moving averages change as their code likes).

        Args:
            weight: as it is now.
            encoded: its encoding.
            ahead: the version that was encoded, if the next `refresh_` may keep it and the divergence measured with it.
        """
        if weight.requires_grad:
            self._entry, self._ahead = (ahead or self.version(weight), encoded), ahead is not None

    def keep_ahead(self, weight: Tensor) -> bool:
        """Return, once, whether the encoding was made ahead and is valid; otherwise empty the cache."""
        kept, self._ahead = self._ahead and self.holds(weight), False
        if not kept:
            self.clear()
        return kept

    def holds(self, weight: Tensor) -> bool:
        """Return whether the encoding of `weight`, as it is now, is cached."""
        if self._entry is None or not isinstance(weight, nn.Parameter):  # a replica, or the stand-in of torch.func
            return False
        return self._entry[0] == self.version(weight)

    def take(self, weight: Tensor) -> Encoded | None:
        """Return the encoding of `weight` and empty the cache; None if there is no valid one."""
        if is_compiling():
            return None
        encoded = self._entry[1] if self._entry is not None and self.holds(weight) else None
        self.clear()
        return encoded

    def clear(self) -> None:
        self._entry = None
