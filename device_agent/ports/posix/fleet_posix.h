/*
 * The agent's ports on a POSIX system with OpenSSL 3: flash in a file, TLS over TCP, EST enrolment, crypto, clock.
 * Each part is a struct of the caller's and a function that gives the port struct of fleet_port.h or fleet_provision.h.
 * Nothing is global; any number may live in one process. One thread at a time per struct.
 * The process must ignore SIGPIPE: OpenSSL writes to sockets without MSG_NOSIGNAL.
 */
#ifndef FLEET_POSIX_H
#define FLEET_POSIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fleet_port.h"
#include "fleet_provision.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FLEET_POSIX_PATH_BYTES 512U
#define FLEET_POSIX_ERROR_BYTES 240U

/* ---- clock ------------------------------------------------------------------------------------------------------------ */

/** Milliseconds of the monotonic clock: what fleet_agent_step is given. */
uint64_t fleet_posix_now_ms(void);

/** Microseconds since boot, Unix time and local offset from the system. `reset` is null; ctx is not used. */
fleet_clock_t fleet_posix_clock(void);

/* ---- files ------------------------------------------------------------------------------------------------------------ */

/** Replaces a file in one step: written aside, synced, renamed. @return FLEET_OK or FLEET_ERR_STORAGE (errno says why) */
fleet_status_t fleet_posix_write_file(const char *path, const void *data, size_t bytes, unsigned mode);

/* ---- flash ------------------------------------------------------------------------------------------------------------ */

/**
 * Flash in a file that enforces NOR rules: a write that programs a byte twice, an unaligned access or an operation while an
 * erase runs fails with FLEET_ERR_STORAGE. What was written survives the end of the process at any moment (kill -9); to survive
 * the machine's power cut as well set `sync`. The file is locked: two processes cannot share it.
 */
typedef struct {
    int file;
    uint8_t *map;
    uint32_t size;
    uint32_t erase_bytes;
    uint32_t program_bytes;
    uint32_t erase_ms;         /**< how long an erase is busy, 0 = done at once */
    bool sync;                 /**< fdatasync after each operation */
    uint64_t erase_until_ms;
    uint32_t erasing;          /* offset of the block, UINT32_MAX = none */
    uint32_t violations;       /**< calls that broke a NOR rule */
    char error[FLEET_POSIX_ERROR_BYTES];
} fleet_posix_flash_t;

/**
 * Opens the file, or makes it, erased, when it is missing or was not finished.
 * Set every field before but `file`, `map` and `erasing`, which this sets.
 * @return FLEET_OK; FLEET_ERR_ARGUMENT: impossible geometry; FLEET_ERR_STORAGE: see `error` (other size, locked, disk full)
 */
fleet_status_t fleet_posix_flash_open(fleet_posix_flash_t *flash, const char *path);
void fleet_posix_flash_close(fleet_posix_flash_t *flash);
fleet_flash_t fleet_posix_flash_port(fleet_posix_flash_t *flash);

/* ---- crypto ----------------------------------------------------------------------------------------------------------- */

/** The device's key lives in a PEM file, mode 0600, made at the first use. */
typedef struct {
    char key_path[FLEET_POSIX_PATH_BYTES];
    void *key; /* EVP_PKEY */
} fleet_posix_crypto_t;

void fleet_posix_crypto_open(fleet_posix_crypto_t *crypto, const char *key_path);
void fleet_posix_crypto_close(fleet_posix_crypto_t *crypto);
fleet_crypto_t fleet_posix_crypto_port(fleet_posix_crypto_t *crypto);

/* ---- TLS -------------------------------------------------------------------------------------------------------------- */

/** Where to and as whom. Texts and files must stay while the transport is used. */
typedef struct {
    const char *host; /**< name or address; the server's certificate must carry it */
    const char *port;
    const char *ca_path;   /**< PEM: the only authorities trusted */
    const char *cert_path; /**< PEM: our certificate, and its chain if any */
    const char *key_path;  /**< PEM */
} fleet_posix_tls_config_t;

/** TLS 1.2 or newer over TCP with both certificates checked. Nothing blocks but the name look-up. */
typedef struct {
    fleet_posix_tls_config_t config;
    int socket;
    uint8_t phase;
    bool wants_write;
    void *context;   /* SSL_CTX */
    void *session;   /* SSL */
    void *addresses; /* struct addrinfo list and the one being tried */
    void *address;
    char error[FLEET_POSIX_ERROR_BYTES]; /**< why connect, send or recv last failed; empty after success */
} fleet_posix_tls_t;

void fleet_posix_tls_open(fleet_posix_tls_t *tls, const fleet_posix_tls_config_t *config);
fleet_transport_t fleet_posix_tls_port(fleet_posix_tls_t *tls);
/** Socket for poll(2), -1 when closed. */
int fleet_posix_tls_socket(const fleet_posix_tls_t *tls);
/** poll(2) events the connection waits for. */
short fleet_posix_tls_events(const fleet_posix_tls_t *tls);
/** Bytes are decrypted already: poll(2) would not tell. */
bool fleet_posix_tls_has_bytes(const fleet_posix_tls_t *tls);

/* ---- EST (RFC 7030) --------------------------------------------------------------------------------------------------- */

#define FLEET_POSIX_CERTIFICATE_BYTES 4096U
#define FLEET_POSIX_TRUST_BYTES 16384U

/** One request. `certificate` and `device`, or `trust`, are valid once fleet_posix_est_step said FLEET_OK. */
typedef struct {
    fleet_posix_tls_t tls;
    const fleet_crypto_t *crypto;
    uint64_t deadline_ms;
    char request[1280];
    uint32_t request_bytes;
    uint32_t sent;
    uint8_t public_xy[64];
    char response[16384];
    uint32_t response_bytes;
    uint8_t phase;
    bool wants_trust;
    int http_status;                                 /**< 0 until the server answered */
    char device[FLEET_DEVICE_ID_BYTES + 1U];         /**< the id the server assigned: the certificate's common name */
    char certificate[FLEET_POSIX_CERTIFICATE_BYTES]; /**< PEM */
    char trust[FLEET_POSIX_TRUST_BYTES];             /**< PEM: the authorities that servers are certified by from now on */
    char error[2U * FLEET_POSIX_ERROR_BYTES];        /**< what happened and what to do */
} fleet_posix_est_t;

/**
 * Prepares simpleenroll (with a claim certificate in `config`), or simplereenroll (with the device's own).
 * @param[in] crypto      makes key and request; must stay until the end
 * @param[in] common_name asked for; a renewal must name the present id
 */
fleet_status_t fleet_posix_est_start(fleet_posix_est_t *est, const fleet_posix_tls_config_t *config, const fleet_crypto_t *crypto,
                                     const char *common_name, bool renewal, uint32_t timeout_ms);
/**
 * Prepares cacerts: which authorities to trust from now on, as a server says that the present ones vouch for. Ask before each
 * simpleenroll and simplereenroll and store the answer in place of `ca_path`: so a device that has renewed knows the authority that
 * the service is changing to, and nobody has to visit it. What does not vouch for the answering server itself is not taken.
 */
fleet_status_t fleet_posix_est_start_cacerts(fleet_posix_est_t *est, const fleet_posix_tls_config_t *config, uint32_t timeout_ms);
/**
 * Goes on without blocking.
 * @return FLEET_CONNECT_PENDING; FLEET_OK; FLEET_ERR_ENROLMENT: the server refused or its answer is not ours;
 *         FLEET_ERR_NETWORK, FLEET_ERR_TLS: could not be asked. Call fleet_posix_est_close after anything but PENDING.
 */
int fleet_posix_est_step(fleet_posix_est_t *est, uint64_t now_ms);
void fleet_posix_est_close(fleet_posix_est_t *est);

/** Seconds until a PEM certificate ends and its whole life, negative when it ended. FLEET_ERR_STORAGE when unreadable. */
fleet_status_t fleet_posix_certificate_life(const char *path, int64_t *left_s, int64_t *whole_s);

/** The certificate's common name. FLEET_ERR_STORAGE when unreadable or not a legal device id. */
fleet_status_t fleet_posix_certificate_name(const char *path, char device[FLEET_DEVICE_ID_BYTES + 1U]);

#ifdef __cplusplus
}
#endif

#endif
