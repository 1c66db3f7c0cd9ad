/*
 * EST client (RFC 7030 sections 4.1, 4.2 and 3.2.4) on the TLS transport: one HTTP/1.1 request, without a body or with the base64 of a
 * PKCS#10 request, one answer with the base64 of a certs-only PKCS#7. Of the certificates that answer a request only the one over our
 * key counts; of those that answer `cacerts`, all or none (est_trust.c).
 */
#define _POSIX_C_SOURCE 200809L

#include <ctype.h>
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/pkcs7.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "est_trust.h"
#include "fleet_posix.h"

enum { PHASE_CONNECT = 0, PHASE_SEND, PHASE_RECEIVE };

static int fail(fleet_posix_est_t *est, fleet_status_t status, const char *what)
{
    (void)snprintf(est->error, sizeof est->error, "enrolment at %.128s:%.16s: %s", est->tls.config.host, est->tls.config.port, what);
    ERR_clear_error();
    return status;
}

static bool write_request(fleet_posix_est_t *est, const uint8_t *csr, uint32_t csr_bytes, bool renewal)
{
    unsigned char body[4U * ((FLEET_CSR_BYTES + 2U) / 3U) + 1U];
    int body_bytes = EVP_EncodeBlock(body, csr, (int)csr_bytes);
    int bytes = snprintf(est->request, sizeof est->request,
                         "POST /.well-known/est/%s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/pkcs10\r\n"
                         "Content-Transfer-Encoding: base64\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
                         renewal ? "simplereenroll" : "simpleenroll", est->tls.config.host, est->tls.config.port, body_bytes,
                         (const char *)body);
    est->request_bytes = (uint32_t)bytes;
    return bytes > 0 && (size_t)bytes < sizeof est->request;
}

static void open_est(fleet_posix_est_t *est, const fleet_posix_tls_config_t *config, uint32_t timeout_ms)
{
    memset(est, 0, sizeof *est);
    fleet_posix_tls_open(&est->tls, config);
    est->deadline_ms = fleet_posix_now_ms() + timeout_ms;
}

fleet_status_t fleet_posix_est_start_cacerts(fleet_posix_est_t *est, const fleet_posix_tls_config_t *config, uint32_t timeout_ms)
{
    open_est(est, config, timeout_ms);
    est->wants_trust = true;
    int bytes = snprintf(est->request, sizeof est->request,
                         "GET /.well-known/est/cacerts HTTP/1.1\r\nHost: %s:%s\r\nConnection: close\r\n\r\n", config->host, config->port);
    est->request_bytes = (uint32_t)bytes;
    return bytes > 0 && (size_t)bytes < sizeof est->request ? FLEET_OK : FLEET_ERR_ARGUMENT;
}

fleet_status_t fleet_posix_est_start(fleet_posix_est_t *est, const fleet_posix_tls_config_t *config, const fleet_crypto_t *crypto,
                                     const char *common_name, bool renewal, uint32_t timeout_ms)
{
    uint8_t csr[FLEET_CSR_BYTES];
    uint32_t csr_bytes = 0;
    open_est(est, config, timeout_ms);
    est->crypto = crypto;
    fleet_status_t status = crypto->p256_key(crypto->ctx, est->public_xy);
    if (status == FLEET_OK) {
        status = fleet_csr_write(crypto, common_name, csr, &csr_bytes);
    }
    if (status == FLEET_OK && !write_request(est, csr, csr_bytes, renewal)) {
        status = FLEET_ERR_ARGUMENT;
    }
    if (status != FLEET_OK) {
        (void)fail(est, status, "cannot make key and request (is the state directory writable, key.pem a P-256 key?)");
    }
    return status;
}

/* Value of a header line, or null. `head` is zero-terminated at the empty line. */
static const char *header_value(const char *head, const char *name)
{
    size_t bytes = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n")) {
        const char *start = line + 2;
        if (strncasecmp(start, name, bytes) == 0 && start[bytes] == ':') {
            return start + bytes + 1U + strspn(start + bytes + 1U, " \t");
        }
    }
    return NULL;
}

/* Joins the chunks of a chunked body in place (RFC 9112 section 7.1). False when malformed or not complete. */
static bool join_chunks(char *body)
{
    char *out = body;
    for (char *at = body;;) {
        char *end = NULL;
        unsigned long bytes = strtoul(at, &end, 16);
        char *data = end == at ? NULL : strstr(end, "\r\n");
        if (data == NULL || bytes >= strlen(data + 2)) {
            return false;
        }
        if (bytes == 0U) {
            *out = '\0';
            return true;
        }
        memmove(out, data + 2, bytes);
        out += bytes;
        at = data + 2 + bytes;
        if (strncmp(at, "\r\n", 2) != 0) {
            return false;
        }
        at += 2;
    }
}

/* Base64 with white space between, in place. Bytes, or -1. */
static int decode_base64(char *text)
{
    size_t kept = 0;
    for (size_t i = 0; text[i] != '\0'; i++) {
        if (!isspace((unsigned char)text[i])) {
            text[kept++] = text[i];
        }
    }
    if (kept == 0U || kept % 4U != 0U) {
        return -1;
    }
    int padding = (text[kept - 1U] == '=') + (text[kept - 2U] == '=');
    unsigned char *raw = malloc(kept);
    int bytes = raw == NULL ? -1 : EVP_DecodeBlock(raw, (const unsigned char *)text, (int)kept);
    if (bytes >= 0) {
        bytes -= padding;
        memcpy(text, raw, (size_t)bytes);
    }
    free(raw);
    return bytes;
}

static bool has_key(const X509 *certificate, const uint8_t public_xy[64])
{
    uint8_t point[65];
    size_t bytes = 0;
    EVP_PKEY *key = X509_get0_pubkey(certificate);
    return key != NULL && EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point, &bytes) == 1 &&
           bytes == sizeof point && memcmp(point + 1, public_xy, 64) == 0;
}

static bool read_name(const X509 *certificate, char device[FLEET_DEVICE_ID_BYTES + 1U])
{
    int bytes = X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, device, FLEET_DEVICE_ID_BYTES + 1);
    return bytes > 0 && strlen(device) == (size_t)bytes && fleet_device_id_is_legal(device);
}

static bool take_certificate(fleet_posix_est_t *est, X509 *certificate)
{
    char *text = NULL;
    BIO *memory = BIO_new(BIO_s_mem());
    bool taken = false;
    if (memory != NULL && PEM_write_bio_X509(memory, certificate) == 1) {
        long bytes = BIO_get_mem_data(memory, &text);
        taken = bytes > 0 && (size_t)bytes < sizeof est->certificate;
        if (taken) {
            memcpy(est->certificate, text, (size_t)bytes);
            est->certificate[bytes] = '\0';
        }
    }
    BIO_free(memory);
    return taken;
}

static int read_certificates(fleet_posix_est_t *est, const STACK_OF(X509) * certificates)
{
    for (int i = 0; i < sk_X509_num(certificates); i++) {
        X509 *certificate = sk_X509_value(certificates, i);
        if (!has_key(certificate, est->public_xy)) {
            continue;
        }
        if (!read_name(certificate, est->device)) {
            return fail(est, FLEET_ERR_ENROLMENT, "the certificate's name is no legal device id");
        }
        return take_certificate(est, certificate) ? FLEET_OK : fail(est, FLEET_ERR_ENROLMENT, "the certificate is too long");
    }
    return fail(est, FLEET_ERR_ENROLMENT, "the answer holds no certificate for our key");
}

static int read_trust(fleet_posix_est_t *est, const STACK_OF(X509) * certificates)
{
    const char *why = fleet_posix_take_trust(est->tls.session, certificates, est->trust, sizeof est->trust);
    return why == NULL ? FLEET_OK : fail(est, FLEET_ERR_ENROLMENT, why);
}

static int read_pkcs7(fleet_posix_est_t *est, char *body)
{
    int bytes = decode_base64(body);
    const unsigned char *at = (const unsigned char *)body;
    PKCS7 *bundle = bytes < 0 ? NULL : d2i_PKCS7(NULL, &at, bytes);
    int status = FLEET_OK;
    if (bundle == NULL || !PKCS7_type_is_signed(bundle) || bundle->d.sign == NULL || bundle->d.sign->cert == NULL) {
        status = fail(est, FLEET_ERR_ENROLMENT, "the answer is no base64 certs-only PKCS#7");
    } else {
        status = est->wants_trust ? read_trust(est, bundle->d.sign->cert) : read_certificates(est, bundle->d.sign->cert);
    }
    PKCS7_free(bundle);
    return status;
}

/* What a person should read of an error body: printable, one line. */
static int fail_status(fleet_posix_est_t *est, const char *body)
{
    char text[120];
    size_t bytes = 0;
    for (size_t i = 0; body[i] != '\0' && bytes + 1U < sizeof text; i++) {
        text[bytes++] = isprint((unsigned char)body[i]) ? body[i] : ' ';
    }
    text[bytes] = '\0';
    char what[180];
    const char *hint = est->http_status == 202 ? "accepted but not decided yet, ask again later" : "refused";
    (void)snprintf(what, sizeof what, "%s (HTTP %d) %s", hint, est->http_status, text);
    return fail(est, FLEET_ERR_ENROLMENT, what);
}

static int read_response(fleet_posix_est_t *est)
{
    char *end = strstr(est->response, "\r\n\r\n");
    if (end == NULL || sscanf(est->response, "HTTP/1.%*1[01] %3d", &est->http_status) != 1) {
        return fail(est, FLEET_ERR_NETWORK, "the answer is no HTTP/1.1");
    }
    *end = '\0';
    char *body = end + 4;
    const char *coding = header_value(est->response, "Transfer-Encoding");
    const char *length = header_value(est->response, "Content-Length");
    bool chunked = coding != NULL && strncasecmp(coding, "chunked", 7) == 0;
    bool complete = chunked ? join_chunks(body) : length == NULL || strtoul(length, NULL, 10) <= strlen(body);
    if (est->http_status != 200) {
        return fail_status(est, body);
    }
    if (!complete) {
        return fail(est, FLEET_ERR_NETWORK, "the answer is cut off");
    }
    return read_pkcs7(est, body);
}

/* True once nothing more needs to come, so that a server that keeps the connection open does not cost the timeout. */
static bool response_is_complete(const fleet_posix_est_t *est)
{
    const char *end = strstr(est->response, "\r\n\r\n");
    const char *length = end == NULL ? NULL : header_value(est->response, "Content-Length");
    return length != NULL && length < end && strlen(end + 4) >= strtoul(length, NULL, 10);
}

static int send_request(fleet_posix_est_t *est, const fleet_transport_t *transport)
{
    int32_t taken =
        transport->send(transport->ctx, (const uint8_t *)est->request + est->sent, est->request_bytes - est->sent);
    if (taken < 0) {
        return fail(est, FLEET_ERR_NETWORK, est->tls.error);
    }
    est->sent += (uint32_t)taken;
    if (est->sent == est->request_bytes) {
        est->phase = PHASE_RECEIVE;
    }
    return FLEET_CONNECT_PENDING;
}

static int receive(fleet_posix_est_t *est, const fleet_transport_t *transport)
{
    uint32_t room = (uint32_t)sizeof est->response - 1U - est->response_bytes;
    if (room == 0U) {
        return fail(est, FLEET_ERR_ENROLMENT, "the answer is too long");
    }
    int32_t got = transport->recv(transport->ctx, (uint8_t *)est->response + est->response_bytes, room);
    if (got > 0) {
        est->response_bytes += (uint32_t)got;
        est->response[est->response_bytes] = '\0';
        return response_is_complete(est) ? read_response(est) : FLEET_CONNECT_PENDING;
    }
    if (got == 0) {
        return FLEET_CONNECT_PENDING;
    }
    if (est->response_bytes > 0U) {
        return read_response(est); /* the end of the connection may be the end of the answer */
    }
    return fail(est, FLEET_ERR_TLS, est->tls.error[0] != '\0' ? est->tls.error : "closed without an answer");
}

int fleet_posix_est_step(fleet_posix_est_t *est, uint64_t now_ms)
{
    fleet_transport_t transport = fleet_posix_tls_port(&est->tls);
    if (now_ms >= est->deadline_ms) {
        return fail(est, FLEET_ERR_NETWORK, "no answer in time");
    }
    if (est->phase == PHASE_CONNECT) {
        int status = transport.connect(transport.ctx);
        if (status < 0) {
            return fail(est, (fleet_status_t)status, est->tls.error);
        }
        est->phase = status == FLEET_OK ? PHASE_SEND : PHASE_CONNECT;
        return FLEET_CONNECT_PENDING;
    }
    return est->phase == PHASE_SEND ? send_request(est, &transport) : receive(est, &transport);
}

void fleet_posix_est_close(fleet_posix_est_t *est)
{
    fleet_transport_t transport = fleet_posix_tls_port(&est->tls);
    transport.close(transport.ctx);
}

static X509 *read_certificate(const char *path)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return NULL;
    }
    X509 *certificate = PEM_read_X509(file, NULL, NULL, NULL);
    (void)fclose(file);
    ERR_clear_error();
    return certificate;
}

static bool seconds_between(const ASN1_TIME *from, const ASN1_TIME *to, int64_t *seconds)
{
    int days = 0;
    int rest = 0;
    bool known = ASN1_TIME_diff(&days, &rest, from, to) == 1; /* a null `from` is now */
    *seconds = (int64_t)days * 86400 + rest;
    return known;
}

fleet_status_t fleet_posix_certificate_life(const char *path, int64_t *left_s, int64_t *whole_s)
{
    X509 *certificate = read_certificate(path);
    if (certificate == NULL) {
        return FLEET_ERR_STORAGE;
    }
    const ASN1_TIME *end = X509_get0_notAfter(certificate);
    bool known = seconds_between(NULL, end, left_s) && seconds_between(X509_get0_notBefore(certificate), end, whole_s);
    X509_free(certificate);
    return known ? FLEET_OK : FLEET_ERR_STORAGE;
}

fleet_status_t fleet_posix_certificate_name(const char *path, char device[FLEET_DEVICE_ID_BYTES + 1U])
{
    X509 *certificate = read_certificate(path);
    bool named = certificate != NULL && read_name(certificate, device);
    X509_free(certificate);
    return named ? FLEET_OK : FLEET_ERR_STORAGE;
}
