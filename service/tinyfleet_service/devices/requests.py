"""Certificate signing requests (PKCS#10), checked before anything believes them."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from tinyfleet_service.errors import CertificateRequestError

MAX_REQUEST_BYTES = 4096
_NEXT = "send a PKCS#10 request for a P-256 key, signed by that key"


def parse_request(data: bytes) -> x509.CertificateSigningRequest:
    """A request in PEM or DER whose signature holds. Raises CertificateRequestError."""
    if len(data) > MAX_REQUEST_BYTES:
        raise CertificateRequestError(f"a request of {len(data)} bytes is too long", next=_NEXT)
    try:
        pem = data.lstrip().startswith(b"-----BEGIN")
        request = x509.load_pem_x509_csr(data) if pem else x509.load_der_x509_csr(data)
        signed = request.is_signature_valid
    except Exception as error:  # the parser raises many kinds on hostile bytes; all mean the same
        raise CertificateRequestError(f"not a certificate request: {type(error).__name__}", next=_NEXT) from error
    if not signed:
        raise CertificateRequestError("the request is not signed by the key it names", next=_NEXT)
    return request


def public_key(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    """The request's P-256 key. Raises CertificateRequestError for any other kind."""
    try:
        key = request.public_key()
    except Exception as error:
        raise CertificateRequestError("the request's key is unusable", next=_NEXT) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateRequestError("the request's key is not on P-256", next=_NEXT)
    return key


def key_digest(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def asked_name(request: x509.CertificateSigningRequest) -> str:
    """The CN the request asks for; never granted, but it tells when somebody wants another device's name.

    Raises CertificateRequestError for one that no name could be.
    """
    names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if names else ""
    if "\0" in name:  # which PostgreSQL takes in no text
        raise CertificateRequestError("the request's CN holds a NUL", next=_NEXT)
    return name


def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """The key as 33 bytes, compressed (SEC 1 section 2.3.3): how it is kept with the device."""
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
