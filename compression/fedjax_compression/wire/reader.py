"""Variable-length integers (LEB128), and a reader that never passes the end of its section."""


def put(out: bytearray, value: int) -> None:
    """Append an integer, seven bits a byte, lowest first; the eighth bit says that more follow."""
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


class Reader:
    """Reads a section from start to end; raises `ValueError` where it has too few bytes."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._position = data, 0

    def take(self, count: int) -> memoryview:
        """Return the next `count` bytes."""
        left = len(self._data) - self._position
        if count > left:
            raise ValueError(f"expected {count} more bytes, got {left}")
        self._position += count
        return self._data[self._position - count : self._position]

    def rest(self) -> memoryview:
        """Return all bytes that are left."""
        return self.take(len(self._data) - self._position)

    def integer(self) -> int:
        """Read an integer that `put` wrote, of at most 35 bits."""
        value = 0
        for shift in range(0, 35, 7):
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("expected an integer of at most 35 bits, got a longer one")
