/*
 * TLS client transport: resolve -> connect each address in turn -> handshake -> stream. Both sides show certificates; the
 * server's must lead to our CA file and carry the host name we asked for (RFC 6125), nothing else is trusted.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fleet_posix.h"

enum { PHASE_CLOSED = 0, PHASE_TCP, PHASE_HANDSHAKE, PHASE_STREAM };

static const char *openssl_reason(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    return reason != NULL ? reason : errno != 0 ? strerror(errno) : "connection closed by the peer";
}

static int fail(fleet_posix_tls_t *tls, fleet_status_t status, const char *what, const char *why)
{
    (void)snprintf(tls->error, sizeof tls->error, "%s %s:%s: %s", what, tls->config.host, tls->config.port, why);
    ERR_clear_error();
    return status;
}

/* The certificate check says more than "certificate verify failed". */
static int fail_handshake(fleet_posix_tls_t *tls)
{
    long verdict = SSL_get_verify_result(tls->session);
    if (verdict != X509_V_OK) {
        return fail(tls, FLEET_ERR_TLS, "TLS refused, the server is not trusted (check CA file and host name)",
                    X509_verify_cert_error_string(verdict));
    }
    return fail(tls, FLEET_ERR_TLS, "TLS handshake failed with", openssl_reason());
}

static SSL_CTX *make_context(fleet_posix_tls_t *tls)
{
    const fleet_posix_tls_config_t *config = &tls->config;
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    const char *broken = NULL;
    if (context == NULL || SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1) {
        broken = "OpenSSL";
    } else if (SSL_CTX_load_verify_file(context, config->ca_path) != 1) {
        broken = config->ca_path;
    } else if (SSL_CTX_use_certificate_chain_file(context, config->cert_path) != 1) {
        broken = config->cert_path;
    } else if (SSL_CTX_use_PrivateKey_file(context, config->key_path, SSL_FILETYPE_PEM) != 1) {
        broken = config->key_path;
    }
    if (broken != NULL) {
        (void)snprintf(tls->error, sizeof tls->error, "cannot use %s: %s", broken, openssl_reason());
        ERR_clear_error();
        SSL_CTX_free(context);
        return NULL;
    }
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    (void)SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_AUTO_RETRY |
                                        SSL_MODE_RELEASE_BUFFERS);
    return context;
}

/* An address is checked as an address and sends no SNI (RFC 6066 section 3); a name is both checked and sent. */
static bool expect_host(SSL *session, const char *host)
{
    X509_VERIFY_PARAM *rules = SSL_get0_param(session);
    if (X509_VERIFY_PARAM_set1_ip_asc(rules, host) == 1) {
        return true;
    }
    ERR_clear_error();
    X509_VERIFY_PARAM_set_hostflags(rules, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    /* What SSL_set_tlsext_host_name does, whose macro casts const away; OpenSSL copies the name. */
    char name[256];
    int bytes = snprintf(name, sizeof name, "%s", host);
    return bytes > 0 && (size_t)bytes < sizeof name && SSL_set1_host(session, name) == 1 &&
           SSL_ctrl(session, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, name) == 1;
}

static int start_handshake(fleet_posix_tls_t *tls)
{
    int on = 1;
    (void)setsockopt(tls->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    tls->session = SSL_new(tls->context);
    if (tls->session == NULL || !expect_host(tls->session, tls->config.host) || SSL_set_fd(tls->session, tls->socket) != 1) {
        return fail(tls, FLEET_ERR_TLS, "cannot start TLS with", openssl_reason());
    }
    SSL_set_connect_state(tls->session);
    tls->phase = PHASE_HANDSHAKE;
    return FLEET_CONNECT_PENDING;
}

static int open_socket(const struct addrinfo *address)
{
    int descriptor = socket(address->ai_family, address->ai_socktype, address->ai_protocol);
    if (descriptor < 0) {
        return -1;
    }
    int flags = fcntl(descriptor, F_GETFL, 0);
    bool ready = flags >= 0 && fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) == 0 && fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0;
    if (ready && (connect(descriptor, address->ai_addr, address->ai_addrlen) == 0 || errno == EINPROGRESS)) {
        return descriptor;
    }
    int reason = errno;
    (void)close(descriptor);
    errno = reason;
    return -1;
}

static void close_socket(fleet_posix_tls_t *tls)
{
    if (tls->socket >= 0) {
        (void)close(tls->socket);
        tls->socket = -1;
    }
}

/* Begins with the next address that lets itself be tried at all. */
static int try_addresses(fleet_posix_tls_t *tls)
{
    while (tls->address != NULL) {
        const struct addrinfo *address = tls->address;
        tls->socket = open_socket(address);
        if (tls->socket >= 0) {
            tls->phase = PHASE_TCP;
            tls->wants_write = true;
            return FLEET_CONNECT_PENDING;
        }
        tls->address = address->ai_next;
    }
    return fail(tls, FLEET_ERR_NETWORK, "cannot connect to", strerror(errno));
}

static int resolve(fleet_posix_tls_t *tls)
{
    struct addrinfo hints;
    struct addrinfo *found = NULL;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    tls->error[0] = '\0';
    tls->context = make_context(tls);
    if (tls->context == NULL) {
        return FLEET_ERR_TLS;
    }
    int code = getaddrinfo(tls->config.host, tls->config.port, &hints, &found);
    if (code != 0) {
        return fail(tls, FLEET_ERR_NETWORK, "cannot find", gai_strerror(code));
    }
    tls->addresses = found;
    tls->address = found;
    return try_addresses(tls);
}

static int finish_tcp(fleet_posix_tls_t *tls)
{
    struct pollfd ready = {tls->socket, POLLOUT, 0};
    int error = 0;
    socklen_t bytes = sizeof error;
    if (poll(&ready, 1, 0) == 0) {
        return FLEET_CONNECT_PENDING;
    }
    if (getsockopt(tls->socket, SOL_SOCKET, SO_ERROR, &error, &bytes) != 0 || error != 0) {
        const struct addrinfo *tried = tls->address;
        close_socket(tls);
        tls->address = tried->ai_next;
        errno = error;
        return try_addresses(tls);
    }
    return start_handshake(tls);
}

/* 0 = later, negative = broken. Notes what poll(2) shall wait for. */
static int wait_or_fail(fleet_posix_tls_t *tls, int result, const char *what)
{
    int reason = SSL_get_error(tls->session, result);
    tls->wants_write = reason == SSL_ERROR_WANT_WRITE;
    if (reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE) {
        return 0;
    }
    if (reason == SSL_ERROR_ZERO_RETURN) {
        return fail(tls, FLEET_ERR_NETWORK, what, "the server closed the connection");
    }
    return fail(tls, FLEET_ERR_NETWORK, what, openssl_reason());
}

static int shake_hands(fleet_posix_tls_t *tls)
{
    ERR_clear_error();
    errno = 0;
    int result = SSL_do_handshake(tls->session);
    if (result == 1) {
        tls->phase = PHASE_STREAM;
        tls->wants_write = false;
        return FLEET_OK;
    }
    int reason = SSL_get_error(tls->session, result);
    tls->wants_write = reason == SSL_ERROR_WANT_WRITE;
    if (reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE) {
        return FLEET_CONNECT_PENDING;
    }
    return fail_handshake(tls);
}

static int tls_connect(void *ctx)
{
    fleet_posix_tls_t *tls = ctx;
    if (tls->phase == PHASE_CLOSED) {
        return resolve(tls);
    }
    if (tls->phase == PHASE_TCP) {
        int result = finish_tcp(tls);
        return tls->phase == PHASE_HANDSHAKE && result == FLEET_CONNECT_PENDING ? shake_hands(tls) : result;
    }
    return tls->phase == PHASE_HANDSHAKE ? shake_hands(tls) : FLEET_OK;
}

static int32_t tls_send(void *ctx, const uint8_t *data, uint32_t bytes)
{
    fleet_posix_tls_t *tls = ctx;
    if (tls->phase != PHASE_STREAM) {
        return FLEET_ERR_NETWORK;
    }
    if (bytes == 0U) {
        return 0;
    }
    ERR_clear_error();
    errno = 0;
    int result = SSL_write(tls->session, data, bytes > INT32_MAX ? INT32_MAX : (int)bytes);
    if (result > 0) {
        tls->wants_write = false;
        return result;
    }
    return wait_or_fail(tls, result, "cannot send to");
}

static int32_t tls_recv(void *ctx, uint8_t *data, uint32_t bytes)
{
    fleet_posix_tls_t *tls = ctx;
    if (tls->phase != PHASE_STREAM) {
        return FLEET_ERR_NETWORK;
    }
    bool sending = tls->wants_write; /* an unfinished send keeps waiting for POLLOUT */
    ERR_clear_error();
    errno = 0;
    int result = SSL_read(tls->session, data, bytes > INT32_MAX ? INT32_MAX : (int)bytes);
    if (result > 0) {
        return result;
    }
    int status = wait_or_fail(tls, result, "cannot receive from");
    tls->wants_write = tls->wants_write || sending;
    return status;
}

static void tls_close(void *ctx)
{
    fleet_posix_tls_t *tls = ctx;
    if (tls->phase == PHASE_STREAM) {
        (void)SSL_shutdown(tls->session); /* tells the peer; its answer is not awaited */
    }
    SSL_free(tls->session);
    SSL_CTX_free(tls->context);
    if (tls->addresses != NULL) {
        freeaddrinfo(tls->addresses);
    }
    close_socket(tls);
    tls->session = NULL;
    tls->context = NULL;
    tls->addresses = NULL;
    tls->address = NULL;
    tls->phase = PHASE_CLOSED;
    tls->wants_write = false;
    ERR_clear_error();
}

void fleet_posix_tls_open(fleet_posix_tls_t *tls, const fleet_posix_tls_config_t *config)
{
    memset(tls, 0, sizeof *tls);
    tls->config = *config;
    tls->socket = -1;
}

fleet_transport_t fleet_posix_tls_port(fleet_posix_tls_t *tls)
{
    fleet_transport_t port = {tls_connect, tls_send, tls_recv, tls_close, tls};
    return port;
}

int fleet_posix_tls_socket(const fleet_posix_tls_t *tls)
{
    return tls->socket;
}

short fleet_posix_tls_events(const fleet_posix_tls_t *tls)
{
    short in = tls->phase == PHASE_TCP ? 0 : POLLIN;
    return (short)(tls->wants_write ? in | POLLOUT : in);
}

bool fleet_posix_tls_has_bytes(const fleet_posix_tls_t *tls)
{
    return tls->phase == PHASE_STREAM && SSL_pending(tls->session) > 0;
}
