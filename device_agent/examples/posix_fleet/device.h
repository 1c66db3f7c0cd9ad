/* One simulated device: a folder (key.pem, cert.pem, id, flash.bin), an enrolment when there is no certificate, an agent. */
#ifndef FLEET_DEVICE_DEVICE_H
#define FLEET_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "dataset.h"
#include "feed.h"
#include "fleet_agent.h"
#include "fleet_posix.h"
#include "slow_link.h"
#include "options.h"
#include "report.h"

#define DEVICE_NAME_BYTES 64U

/* What all devices of the process share. */
typedef struct {
    const options_t *options;
    const dataset_t *dataset; /* null: nothing is inferred */
    const uint8_t *root;
    uint32_t root_bytes;
    uint32_t enrolling; /* enrolments under way: bounded, so that a large fleet does not storm the server */
} world_t;

typedef enum {
    DEVICE_NEW = 0, /* needs a certificate */
    DEVICE_RUNNING,
    DEVICE_SILENT, /* a fault: takes part in nothing any more */
    DEVICE_FAILED  /* cannot run; the reason was reported */
} device_phase_t;

typedef struct {
    world_t *world;
    uint32_t index;
    device_phase_t phase;
    char name[DEVICE_NAME_BYTES];
    char id[FLEET_DEVICE_ID_BYTES + 1U];
    char key_path[FLEET_POSIX_PATH_BYTES];
    char cert_path[FLEET_POSIX_PATH_BYTES];
    char id_path[FLEET_POSIX_PATH_BYTES];
    char trust_path[FLEET_POSIX_PATH_BYTES]; /* authorities that the enrolment server named */
    char ca_path[FLEET_POSIX_PATH_BYTES];    /* those in use: `trust_path` once it is there, --ca before */
    char flash_path[FLEET_POSIX_PATH_BYTES];
    reporter_t who;
    uint64_t random;

    fleet_posix_est_t *est; /* null: no enrolment under way */
    bool asks_trust;        /* `est` asks for the authorities, the certificate comes after */
    uint64_t est_next_ms;   /* next attempt, or next look at the certificate's age */
    uint64_t est_delay_ms;
    char last_error[2U * FLEET_POSIX_ERROR_BYTES];

    fleet_posix_crypto_t crypto;
    fleet_posix_flash_t flash;
    fleet_posix_tls_t tls;
    slow_link_t link;
    fleet_crypto_t crypto_port;
    fleet_flash_t flash_port;
    fleet_transport_t transport_port;
    fleet_clock_t clock_port;
    fleet_agent_t agent;
    uint8_t *arena;
    uint8_t *state;
    feed_t feed;
    fleet_agent_info_t seen; /* last reported snapshot */

    fault_t fault;
    uint32_t activations;
    uint32_t clock_calls;
    uint64_t silent_ms; /* when the SILENT fault strikes, 0 = not yet */
    bool reset_wanted;

    uint64_t next_ms; /* when it wants to be stepped */
} device_t;

/* Makes or opens the folder. False: it cannot, and said why. */
bool device_open(device_t *device, world_t *world, uint32_t index);

/* Does what is due and sets `next_ms`. */
void device_step(device_t *device, uint64_t now_ms);

/* Socket to watch (-1 = none) and the poll(2) events it waits for. */
int device_socket(device_t *device, uint64_t now_ms, short *events);

/* Ends the session in order; true once done. */
bool device_stop(device_t *device, uint64_t now_ms);

void device_close(device_t *device);

#endif
