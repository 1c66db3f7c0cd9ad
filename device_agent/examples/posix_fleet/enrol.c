#define _POSIX_C_SOURCE 200809L

#include "enrol.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "seeded.h"

#define AT_ONCE 4U
#define TIMEOUT_MS 15000U
#define LOOK_MS 100U
#define DELAY_MIN_MS 500U
#define DELAY_MAX_MS 30000U
#define AGE_CHECK_MAX_S 3600
#define STEPS_A_CALL 4 /* connected, sent, answered: without a turn of the loop between them */

void enrol_close(device_t *device)
{
    if (device->est != NULL) {
        fleet_posix_est_close(device->est);
        free(device->est);
        device->est = NULL;
        device->world->enrolling--;
    }
}

/* Decorrelated jitter: between the least delay and three times the last one. */
static void back_off(device_t *device, uint64_t now_ms)
{
    uint64_t last = device->est_delay_ms > DELAY_MIN_MS ? device->est_delay_ms : DELAY_MIN_MS;
    uint64_t delay = DELAY_MIN_MS + (uint64_t)(seeded_unit(&device->random) * (double)(3U * last - DELAY_MIN_MS));
    device->est_delay_ms = delay < DELAY_MAX_MS ? delay : DELAY_MAX_MS;
    device->est_next_ms = now_ms + device->est_delay_ms;
}

static void tell_once(device_t *device, const char *event, const char *text)
{
    if (strcmp(text, device->last_error) != 0) {
        (void)snprintf(device->last_error, sizeof device->last_error, "%s", text);
        report_text(&device->who, event, "error", text);
    }
}

static void report_failure(device_t *device, const char *text)
{
    tell_once(device, "enrolment-failed", text);
}

static bool has_certificate(device_t *device)
{
    return access(device->cert_path, F_OK) == 0;
}

static fleet_status_t ask(device_t *device)
{
    const options_t *options = device->world->options;
    bool renewal = has_certificate(device);
    fleet_posix_tls_config_t config = {options->est_host, options->est_port, device->ca_path,
                                       renewal ? device->cert_path : options->claim_cert_path,
                                       renewal ? device->key_path : options->claim_key_path};
    if (device->asks_trust) {
        return fleet_posix_est_start_cacerts(device->est, &config, TIMEOUT_MS);
    }
    return fleet_posix_est_start(device->est, &config, &device->crypto_port, renewal ? device->id : options->csr_name, renewal,
                                 TIMEOUT_MS);
}

static bool begin(device_t *device)
{
    device->est = malloc(sizeof *device->est);
    if (device->est == NULL) {
        report_failure(device, "out of memory");
        return false;
    }
    device->world->enrolling++;
    device->asks_trust = true;
    if (ask(device) == FLEET_OK) {
        return true;
    }
    report_failure(device, device->est->error);
    enrol_close(device);
    return false;
}

bool enrol_choose_trust(device_t *device)
{
    const char *path = access(device->trust_path, R_OK) == 0 ? device->trust_path : device->world->options->ca_path;
    int bytes = snprintf(device->ca_path, sizeof device->ca_path, "%s", path);
    bool fits = bytes > 0 && (size_t)bytes < sizeof device->ca_path;
    errno = fits ? errno : ENAMETOOLONG;
    return fits;
}

static bool file_holds(const char *path, const char *text)
{
    char held[FLEET_POSIX_TRUST_BYTES];
    FILE *file = fopen(path, "re");
    size_t bytes = file == NULL ? 0U : fread(held, 1, sizeof held, file);
    if (file != NULL) {
        (void)fclose(file);
    }
    return bytes == strlen(text) && memcmp(held, text, bytes) == 0;
}

static void keep_trust(device_t *device)
{
    const char *trust = device->est->trust;
    if (file_holds(device->ca_path, trust)) {
        return;
    }
    if (fleet_posix_write_file(device->trust_path, trust, strlen(trust), 0600) != FLEET_OK) {
        tell_once(device, "authorities-kept", "cannot store what the server named: check space and rights of --dir");
        return;
    }
    if (enrol_choose_trust(device)) {
        report(&device->who, "authorities");
    }
}

/* From the authorities to the certificate. Without an answer that can be taken the old ones stay: better than a certificate that ends. */
static int go_on(device_t *device, int status)
{
    if (status == FLEET_OK) {
        keep_trust(device);
    } else {
        tell_once(device, "authorities-kept", device->est->error);
    }
    fleet_posix_est_close(device->est);
    device->asks_trust = false;
    return ask(device) == FLEET_OK ? FLEET_CONNECT_PENDING : FLEET_ERR_STORAGE;
}

static bool keep(device_t *device)
{
    const fleet_posix_est_t *est = device->est;
    return fleet_posix_write_file(device->cert_path, est->certificate, strlen(est->certificate), 0600) == FLEET_OK &&
           fleet_posix_write_file(device->id_path, est->device, strlen(est->device), 0600) == FLEET_OK;
}

/* FLEET_CONNECT_PENDING while it goes on; what is under way has ended otherwise. */
static int advance(device_t *device, uint64_t now_ms)
{
    int status = FLEET_CONNECT_PENDING;
    for (int i = 0; i < STEPS_A_CALL && status == FLEET_CONNECT_PENDING; i++) {
        status = fleet_posix_est_step(device->est, now_ms);
    }
    if (device->asks_trust && (status == FLEET_OK || status == FLEET_ERR_ENROLMENT)) {
        status = go_on(device, status);
    } else if (status == FLEET_OK && !keep(device)) {
        report_failure(device, "cannot store the certificate: check space and rights of --dir");
        status = FLEET_ERR_STORAGE;
    }
    if (status < 0 && device->est->error[0] != '\0') {
        report_failure(device, device->est->error);
    }
    return status;
}

static void give_up(device_t *device, const char *text)
{
    report_text(&device->who, "failed", "error", text);
    device->phase = DEVICE_FAILED;
    device->next_ms = UINT64_MAX;
}

static bool use_certificate(device_t *device)
{
    if (fleet_posix_certificate_name(device->cert_path, device->id) != FLEET_OK) {
        give_up(device, "cert.pem is damaged: have an operator reset the device, delete the file and start again");
        return false;
    }
    device->est_next_ms = 0;
    device->est_delay_ms = 0;
    device->last_error[0] = '\0';
    return true;
}

static bool may_enrol(device_t *device)
{
    const options_t *options = device->world->options;
    if (options->est_host[0] == '\0' || options->claim_cert_path == NULL || options->claim_key_path == NULL) {
        give_up(device, "no certificate yet: give --est, --claim-cert and --claim-key");
        return false;
    }
    return true;
}

bool enrol_step(device_t *device, uint64_t now_ms)
{
    if (device->est == NULL) {
        if (has_certificate(device)) {
            return use_certificate(device);
        }
        device->next_ms = device->est_next_ms;
        if (!may_enrol(device) || now_ms < device->est_next_ms) {
            return false;
        }
        device->next_ms = now_ms + LOOK_MS;
        if (device->world->enrolling >= AT_ONCE) {
            return false;
        }
        if (!begin(device)) {
            back_off(device, now_ms);
            return false;
        }
    }
    int status = advance(device, now_ms);
    device->next_ms = now_ms + LOOK_MS;
    if (status == FLEET_CONNECT_PENDING) {
        return false;
    }
    enrol_close(device);
    if (status != FLEET_OK) {
        back_off(device, now_ms);
        return false;
    }
    bool usable = use_certificate(device);
    if (usable) {
        report(&device->who, "enrolled");
    }
    return usable;
}

/* Seconds until the last third of the certificate's life begins. */
static int64_t renewal_due_s(device_t *device)
{
    int64_t left = 0;
    int64_t whole = 0;
    if (fleet_posix_certificate_life(device->cert_path, &left, &whole) != FLEET_OK) {
        return AGE_CHECK_MAX_S;
    }
    if (left <= 0) {
        report_failure(device, "the certificate has expired: have an operator reset the device, then delete cert.pem");
        return AGE_CHECK_MAX_S;
    }
    return left - whole / 3;
}

uint64_t enrol_renew(device_t *device, uint64_t now_ms)
{
    if (device->world->options->est_host[0] == '\0') {
        return UINT64_MAX;
    }
    if (device->est == NULL) {
        if (now_ms < device->est_next_ms) {
            return device->est_next_ms;
        }
        int64_t due_s = renewal_due_s(device);
        if (due_s > 0) {
            device->est_next_ms = now_ms + 1000U * (uint64_t)(due_s < AGE_CHECK_MAX_S ? due_s : AGE_CHECK_MAX_S);
            return device->est_next_ms;
        }
        if (!begin(device)) {
            back_off(device, now_ms);
            return device->est_next_ms;
        }
    }
    int status = advance(device, now_ms);
    if (status == FLEET_CONNECT_PENDING) {
        return now_ms + LOOK_MS;
    }
    enrol_close(device);
    if (status == FLEET_OK) {
        report(&device->who, "renewed");
        device->est_delay_ms = 0;
        device->est_next_ms = now_ms + 1000U; /* look at the new one's age */
    } else {
        back_off(device, now_ms);
    }
    return device->est_next_ms;
}
