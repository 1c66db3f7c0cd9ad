"""A company's certificate authority, run by openssl: a root, and issuing authorities below it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

ISSUING = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"
ABOVE = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
KEYS = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"


@dataclass(frozen=True)
class Company:
    """Files `root.crt`, `root.key` and whatever else is made, in one folder."""

    folder: Path

    @classmethod
    def found(cls, folder: Path) -> Company:
        folder.mkdir(parents=True, exist_ok=True)
        company = cls(folder)
        company.key("root")
        extensions = [
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]
        subject = ["-subj", "/O=Example/CN=Example Root", "-days", "3650", "-key", "root.key", "-out", "root.crt"]
        company.openssl("req", "-x509", "-new", *subject, *extensions)
        return company

    @property
    def root(self) -> Path:
        return self.folder / "root.crt"

    def chain(self, name: str) -> bytes:
        """The root and an authority below it, PEM, in another order than that of the chain."""
        return self.root.read_bytes() + (self.folder / f"{name}.crt").read_bytes()

    def openssl(self, *words: str) -> bytes:
        done = subprocess.run(["openssl", *words], cwd=self.folder, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def key(self, name: str) -> None:
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")

    def sign(self, csr: Path, name: str, *, by: str = "root", extensions: str = ISSUING, days: int = 1825) -> Path:
        """`name`.crt over the request, below `by`."""
        (self.folder / f"{name}.ext").write_text(extensions + KEYS)
        issuer = ["-CA", f"{by}.crt", "-CAkey", f"{by}.key", "-CAcreateserial", "-days", str(days)]
        self.openssl("x509", "-req", "-in", str(csr), *issuer, "-extfile", f"{name}.ext", "-out", f"{name}.crt")
        return self.folder / f"{name}.crt"

    def issue(self, name: str, subject: str, *, by: str = "root", extensions: str = ABOVE) -> Path:
        """A key and a certificate of the company's own."""
        self.key(name)
        self.openssl("req", "-new", "-key", f"{name}.key", "-subj", subject, "-out", f"{name}.csr")
        return self.sign(self.folder / f"{name}.csr", name, by=by, extensions=extensions)
