"""A key management service as `keys/external.py` expects it: a process of its own that alone has the key.

python key_service.py KEYFILE MODE (public-key | sign)     MODE: honest, or how it fails
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tinyfleet_ota import FileSigner

PASSPHRASE = b"of the key service"


def main() -> int:
    path, mode, verb = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    signer = FileSigner.load(path, PASSPHRASE)
    if mode == "refuses":
        print("audit: denied\nkey release is disabled", file=sys.stderr)
        return 3
    if mode == "hangs":
        time.sleep(3600)
    if mode == "babbles":
        print("Signature: yes")
        return 0
    if verb == "public-key":
        print(signer.public_key.hex() if mode != "short" else "00" * 31)
        return 0
    other = FileSigner.generate() if mode == "other key" else signer
    signature = other.sign(sys.stdin.buffer.read())
    print((signature[:40] if mode == "cut" else signature).hex())
    return 0


if __name__ == "__main__":
    sys.exit(main())
