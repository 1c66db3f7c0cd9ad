/* Command line of fleet_device. */
#ifndef FLEET_DEVICE_OPTIONS_H
#define FLEET_DEVICE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#define FAULTS_MAX 16U
#define HOST_BYTES 256U

/* What a test or a demonstration makes go wrong. */
typedef enum {
    FAULT_NONE = 0,
    FAULT_SILENT,        /* stops for ever, a moment after its Nth activation */
    FAULT_RESET_WRITING, /* loses its memory once when N % of an update are written */
    FAULT_KILL_WRITING,  /* the whole process kills itself (SIGKILL) at that moment */
    FAULT_KILL_TESTING,  /* the whole process kills itself whenever a candidate is in TESTING */
    FAULT_SLOW           /* each inference seems to take N microseconds more */
} fault_kind_t;

typedef struct {
    fault_kind_t kind;
    uint32_t device; /* index, from 0 */
    uint32_t value;
} fault_t;

typedef struct {
    char est_host[HOST_BYTES];
    char est_port[8];
    char broker_host[HOST_BYTES];
    char broker_port[8];
    const char *ca_path;
    const char *root_path;
    const char *claim_cert_path;
    const char *claim_key_path;
    const char *state_dir;
    const char *device_class;
    const char *dataset_path;
    const char *name_prefix;
    const char *csr_name;
    uint32_t count;
    double rate_hz;
    uint32_t label_delay_ms;
    uint32_t report_interval_s;
    uint32_t sleep_max_s;
    uint32_t rx_bytes_per_s;
    uint32_t slot_bytes;
    uint32_t arena_bytes;
    uint32_t state_bytes; /* of one slot, a multiple of 16 */
    uint32_t erase_bytes;
    uint32_t program_bytes;
    uint32_t erase_ms;
    uint64_t seed;
    fault_t faults[FAULTS_MAX];
    uint32_t fault_count;
} options_t;

/* Fills `options`; on a mistake prints what is wrong on stderr and returns false. `--help` prints the usage and exits 0. */
bool options_parse(options_t *options, int argc, char **argv);

/* The fault of a device, FAULT_NONE where there is none. */
fault_t options_fault(const options_t *options, uint32_t device);

#endif
