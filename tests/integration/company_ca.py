"""A company's authority as the program that TINYFLEET_DEVICE_CA names: openssl, with `issuing.crt` and its key.

python company_ca.py FOLDER VERB ...; the file `mode` in the folder makes it fail or lie, for tests.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

CONFIG = """
[ca]
default_ca = own
[own]
database = index.txt
new_certs_dir = .
certificate = issuing.crt
private_key = issuing.key
crlnumber = crlnumber
rand_serial = yes
default_md = sha256
default_crl_days = 30
policy = any
unique_subject = no
crl_extensions = list
[any]
commonName = supplied
[list]
authorityKeyIdentifier = keyid
[client]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[server]
basicConstraints = critical,CA:FALSE
extendedKeyUsage = clientAuth,serverAuth
authorityKeyIdentifier = keyid
"""


def main(folder: Path, verb: str, *words: str) -> None:
    mode = (folder / "mode").read_text() if (folder / "mode").exists() else ""
    if mode == "down":
        sys.exit("the vault is sealed")
    if mode == "hangs" and verb == "sign":
        time.sleep(60)
    if not (folder / "index.txt").exists():
        (folder / "index.txt").touch()
        (folder / "crlnumber").write_text("01\n")
        (folder / "ca.cnf").write_text(CONFIG)
    sys.stdout.buffer.write({"chain": chain, "sign": sign, "revoke": revoke, "crl": crl}[verb](folder, mode, *words))


def chain(folder: Path, mode: str) -> bytes:
    return (folder / "issuing.crt").read_bytes() + (folder / "root.crt").read_bytes()


def sign(folder: Path, mode: str, device: str, days: str) -> bytes:
    request = folder / "asked.csr"
    request.write_bytes(sys.stdin.buffer.read())
    if mode == "other key":
        key = ["-newkey", "rsa:2048", "-nodes", "-keyout", "x.key"]
        openssl(folder, "req", "-new", *key, "-subj", "/CN=x", "-out", "asked.csr")
    name = "svc-controller" if mode == "other name" else device
    kind = "server" if mode == "server" else "client"
    issuer = ["-cert", "sibling.crt", "-keyfile", "sibling.key"] if mode == "other issuer" else []
    options = ["-batch", "-notext", "-days", days, "-subj", f"/CN={name}", "-extensions", kind, *issuer]
    made = openssl(folder, "ca", "-config", "ca.cnf", "-in", "asked.csr", *options)
    return b"what?" if mode == "babbles" else made


def revoke(folder: Path, mode: str, serial: str) -> bytes:
    even = serial.zfill(len(serial) + len(serial) % 2).upper()
    if f"\t{even}\t" not in "".join(line for line in (folder / "index.txt").open() if line.startswith("R")):
        openssl(folder, "ca", "-config", "ca.cnf", "-revoke", f"{even}.pem")
    return b""


def crl(folder: Path, mode: str) -> bytes:
    if mode == "no list":
        return b""
    issuer = ["-cert", "sibling.crt", "-keyfile", "sibling.key"] if mode == "other list" else []
    over = ["-crl_lastupdate", "200101000000Z", "-crl_nextupdate", "200102000000Z"] if mode == "old list" else []
    return openssl(folder, "ca", "-config", "ca.cnf", "-gencrl", *issuer, *over)


def openssl(folder: Path, *words: str) -> bytes:
    done = subprocess.run(["openssl", *words], cwd=folder, capture_output=True)
    if done.returncode != 0:
        sys.exit(done.stderr.decode())
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
