"""Philox4x32-10 in plain Python, checked against the known answers of Random123 (kat_vectors)."""

MASK = 0xFFFFFFFF


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & MASK, (a >> 32) ^ c[3] ^ k[1], a & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c[0], c[1], c[2], c[3]


assert philox4x32((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
assert philox4x32((MASK,) * 4, (MASK,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
assert philox4x32((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)) == (
    0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


def uniform(key: tuple[int, int, int, int], index: int) -> float:
    """The float of element `index`: block (i / 64) * 16 + i % 16, word (i / 16) % 4, 24 bits."""
    block = index // 64 * 16 + index % 16
    words = philox4x32((block & MASK, block >> 32, key[2], key[3]), (key[0], key[1]))
    return (words[index // 16 % 4] >> 8) * 2.0**-24
