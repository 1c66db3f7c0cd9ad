#include "est_trust.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <string.h>

static bool are_authorities(const STACK_OF(X509) * found)
{
    for (int i = 0; i < sk_X509_num(found); i++) {
        if (X509_check_ca(sk_X509_value(found, i)) == 0) {
            return false;
        }
    }
    return sk_X509_num(found) > 0;
}

static X509_STORE *make_store(const STACK_OF(X509) * found)
{
    X509_STORE *store = X509_STORE_new();
    for (int i = 0; store != NULL && i < sk_X509_num(found); i++) {
        if (X509_STORE_add_cert(store, sk_X509_value(found, i)) != 1) {
            X509_STORE_free(store);
            store = NULL;
        }
    }
    return store;
}

/* Whether the server at the other end leads to a self-signed authority among these. */
static bool vouch_for(const STACK_OF(X509) * found, SSL *session)
{
    X509_STORE *store = make_store(found);
    X509_STORE_CTX *check = X509_STORE_CTX_new();
    X509 *server = SSL_get0_peer_certificate(session);
    bool good = store != NULL && check != NULL &&
                X509_STORE_CTX_init(check, store, server, SSL_get_peer_cert_chain(session)) == 1 &&
                X509_STORE_CTX_set_default(check, "ssl_server") == 1 && X509_verify_cert(check) == 1;
    X509_STORE_CTX_free(check);
    X509_STORE_free(store);
    return good;
}

static bool write_pem(const STACK_OF(X509) * found, char *pem, size_t pem_bytes)
{
    char *text = NULL;
    BIO *memory = BIO_new(BIO_s_mem());
    bool written = memory != NULL;
    for (int i = 0; written && i < sk_X509_num(found); i++) {
        written = PEM_write_bio_X509(memory, sk_X509_value(found, i)) == 1;
    }
    long bytes = written ? BIO_get_mem_data(memory, &text) : 0;
    written = bytes > 0 && (size_t)bytes < pem_bytes;
    if (written) {
        memcpy(pem, text, (size_t)bytes);
        pem[bytes] = '\0';
    }
    BIO_free(memory);
    return written;
}

const char *fleet_posix_take_trust(SSL *session, const STACK_OF(X509) * found, char *pem, size_t pem_bytes)
{
    const char *why = NULL;
    if (!are_authorities(found)) {
        why = "the answer holds a certificate that is no authority, or none at all";
    } else if (!vouch_for(found, session)) {
        why = "the authorities of the answer do not vouch for the server that gave it";
    } else if (!write_pem(found, pem, pem_bytes)) {
        why = "the authorities of the answer are too long";
    }
    ERR_clear_error();
    return why;
}
