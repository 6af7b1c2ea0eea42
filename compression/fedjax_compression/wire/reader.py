"""Variable-length integers, written and read; reading never passes the end."""


def put(out: bytearray, value: int) -> None:
    """Seven bits in a byte, lowest first, the eighth saying that more follow."""
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


class Reader:
    """Reads a section from its start, and never beyond its end."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> memoryview:
        if count > len(self._data) - self._at:
            raise ValueError("fewer bytes than announced")
        self._at += count
        return self._data[self._at - count : self._at]

    def rest(self) -> memoryview:
        return self.take(len(self._data) - self._at)

    def integer(self) -> int:
        value = 0
        for shift in range(0, 35, 7):
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("an integer of more than 35 bits")
