/* Which authorities of an EST answer (RFC 7030 section 4.1.3) a device takes as its trust. */
#ifndef FLEET_POSIX_EST_TRUST_H
#define FLEET_POSIX_EST_TRUST_H

#include <openssl/ssl.h>
#include <stddef.h>

/*
 * Writes them as PEM, each an authority, and together such that the server that gave them is trusted under them too: an answer
 * can bring a successor, it cannot lock the device out. Null, or why they are not taken.
 */
const char *fleet_posix_take_trust(SSL *session, const STACK_OF(X509) * found, char *pem, size_t pem_bytes);

#endif
