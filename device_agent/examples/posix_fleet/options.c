#define _DEFAULT_SOURCE

#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "fleet_device --broker HOST:PORT --ca FILE --root FILE --dir DIR --device-class CLASS [options]\n"
    "  --est HOST:PORT          enrolment server, needed by devices without a certificate and to renew one\n"
    "  --claim-cert FILE        claim certificate and its key, PEM: only shown to the enrolment server\n"
    "  --claim-key FILE\n"
    "  --broker HOST:PORT       MQTT broker, TLS\n"
    "  --ca FILE                PEM: the authorities trusted for both servers\n"
    "  --root FILE              the root the devices are made with, as published\n"
    "  --dir DIR                one folder a device: key.pem cert.pem id flash.bin\n"
    "  --device-class CLASS     as enrolled\n"
    "  --count N                devices in this process (1)\n"
    "  --name-prefix P          folders are P-0000, P-0001 .. (device)\n"
    "  --csr-name NAME          common name to ask for (unassigned); the server assigns the id\n"
    "  --dataset FILE           live inputs and their labels, see README; without it nothing is inferred\n"
    "  --rate-hz R              inferences a second and device, jittered (1)\n"
    "  --label-delay-ms D       labels come this much later (1000)\n"
    "  --report-interval-s S    telemetry period (60)\n"
    "  --sleep-max-s S          longest sleep the devices announce (0 = none)\n"
    "  --rx-bytes-per-s B       slow link: receive at most this much a device (0 = no limit)\n"
    "  --slot-bytes B           room of one image (262144)\n"
    "  --arena-bytes B          memory for activations (65536)\n"
    "  --state-bytes B          memory a model may keep between inferences, a multiple of 16 (16384)\n"
    "  --erase-bytes B          flash erase block (4096)\n"
    "  --program-bytes B        flash program unit (16)\n"
    "  --erase-ms D             how long an erase is busy (1)\n"
    "  --seed X                 order of samples, jitter (1)\n"
    "  --firmware-fault KIND:DEVICE[:N]   may be repeated; DEVICE counts from 0\n"
    "      silent          stops a moment after its Nth activation (1)\n"
    "      reset-writing   restarts once, without warning, when N % of an update are written (30)\n"
    "      kill-writing    kills this process at that moment\n"
    "      kill-testing    kills this process whenever a candidate is in TESTING\n"
    "      slow            inferences seem to take N microseconds longer (1000)\n";

enum { OPTION_BASE = 256 };

typedef enum {
    OPT_EST,
    OPT_CLAIM_CERT,
    OPT_CLAIM_KEY,
    OPT_BROKER,
    OPT_CA,
    OPT_ROOT,
    OPT_DIR,
    OPT_CLASS,
    OPT_COUNT,
    OPT_PREFIX,
    OPT_CSR_NAME,
    OPT_DATASET,
    OPT_RATE,
    OPT_LABEL_DELAY,
    OPT_REPORT,
    OPT_SLEEP,
    OPT_RX,
    OPT_SLOT,
    OPT_ARENA,
    OPT_STATE,
    OPT_ERASE,
    OPT_PROGRAM,
    OPT_ERASE_MS,
    OPT_SEED,
    OPT_FAULT,
    OPT_HELP
} option_t;

static const struct option options_known[] = {
    {"est", required_argument, NULL, OPTION_BASE + OPT_EST},
    {"claim-cert", required_argument, NULL, OPTION_BASE + OPT_CLAIM_CERT},
    {"claim-key", required_argument, NULL, OPTION_BASE + OPT_CLAIM_KEY},
    {"broker", required_argument, NULL, OPTION_BASE + OPT_BROKER},
    {"ca", required_argument, NULL, OPTION_BASE + OPT_CA},
    {"root", required_argument, NULL, OPTION_BASE + OPT_ROOT},
    {"dir", required_argument, NULL, OPTION_BASE + OPT_DIR},
    {"device-class", required_argument, NULL, OPTION_BASE + OPT_CLASS},
    {"count", required_argument, NULL, OPTION_BASE + OPT_COUNT},
    {"name-prefix", required_argument, NULL, OPTION_BASE + OPT_PREFIX},
    {"csr-name", required_argument, NULL, OPTION_BASE + OPT_CSR_NAME},
    {"dataset", required_argument, NULL, OPTION_BASE + OPT_DATASET},
    {"rate-hz", required_argument, NULL, OPTION_BASE + OPT_RATE},
    {"label-delay-ms", required_argument, NULL, OPTION_BASE + OPT_LABEL_DELAY},
    {"report-interval-s", required_argument, NULL, OPTION_BASE + OPT_REPORT},
    {"sleep-max-s", required_argument, NULL, OPTION_BASE + OPT_SLEEP},
    {"rx-bytes-per-s", required_argument, NULL, OPTION_BASE + OPT_RX},
    {"slot-bytes", required_argument, NULL, OPTION_BASE + OPT_SLOT},
    {"arena-bytes", required_argument, NULL, OPTION_BASE + OPT_ARENA},
    {"state-bytes", required_argument, NULL, OPTION_BASE + OPT_STATE},
    {"erase-bytes", required_argument, NULL, OPTION_BASE + OPT_ERASE},
    {"program-bytes", required_argument, NULL, OPTION_BASE + OPT_PROGRAM},
    {"erase-ms", required_argument, NULL, OPTION_BASE + OPT_ERASE_MS},
    {"seed", required_argument, NULL, OPTION_BASE + OPT_SEED},
    {"firmware-fault", required_argument, NULL, OPTION_BASE + OPT_FAULT},
    {"help", no_argument, NULL, OPTION_BASE + OPT_HELP},
    {NULL, 0, NULL, 0},
};

static const struct {
    const char *name;
    fault_kind_t kind;
    uint32_t value; /* where none is given */
} fault_kinds[] = {
    {"silent", FAULT_SILENT, 1},           {"reset-writing", FAULT_RESET_WRITING, 30}, {"kill-writing", FAULT_KILL_WRITING, 30},
    {"kill-testing", FAULT_KILL_TESTING, 0}, {"slow", FAULT_SLOW, 1000},
};

static bool complain(const char *option, const char *value)
{
    (void)fprintf(stderr, "fleet_device: bad value for %s: '%s' (--help shows what is expected)\n", option, value);
    return false;
}

static bool read_number(const char *text, uint64_t max, uint64_t *value)
{
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 0);
    *value = number;
    return errno == 0 && end != text && *end == '\0' && text[0] != '-' && number <= max;
}

static bool read_u32(const char *text, uint32_t *value)
{
    uint64_t number = 0;
    bool valid = read_number(text, UINT32_MAX, &number);
    *value = (uint32_t)number;
    return valid;
}

static bool read_rate(const char *text, double *rate)
{
    char *end = NULL;
    *rate = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*rate) && *rate > 0.0 && *rate <= 1000.0;
}

/* HOST:PORT, an IPv6 address in brackets. */
static bool read_address(const char *text, char host[HOST_BYTES], char port[8])
{
    const char *colon = strrchr(text, ':');
    uint64_t number = 0;
    if (colon == NULL || colon == text || !read_number(colon + 1, 65535, &number) || strlen(colon + 1) > 5U) {
        return false;
    }
    bool bracketed = text[0] == '[' && colon[-1] == ']';
    const char *start = bracketed ? text + 1 : text;
    size_t bytes = (size_t)((bracketed ? colon - 1 : colon) - start);
    if (bytes == 0U || bytes >= HOST_BYTES) {
        return false;
    }
    memcpy(host, start, bytes);
    host[bytes] = '\0';
    (void)snprintf(port, 8, "%s", colon + 1);
    return true;
}

static bool read_fault(options_t *options, const char *text)
{
    const char *colon = strchr(text, ':');
    char device[16];
    if (colon == NULL || options->fault_count == FAULTS_MAX) {
        return false;
    }
    const char *second = strchr(colon + 1, ':');
    (void)snprintf(device, sizeof device, "%.*s", second != NULL ? (int)(second - colon - 1) : 15, colon + 1);
    fault_t *fault = &options->faults[options->fault_count];
    for (size_t i = 0; i < sizeof fault_kinds / sizeof fault_kinds[0]; i++) {
        size_t bytes = strlen(fault_kinds[i].name);
        if (bytes == (size_t)(colon - text) && strncmp(text, fault_kinds[i].name, bytes) == 0) {
            fault->kind = fault_kinds[i].kind;
            fault->value = fault_kinds[i].value;
            options->fault_count++;
            return read_u32(device, &fault->device) && (second == NULL || read_u32(second + 1, &fault->value));
        }
    }
    return false;
}

static bool take_text(options_t *options, int option, const char *value)
{
    switch (option - OPTION_BASE) {
    case OPT_CLAIM_CERT: options->claim_cert_path = value; return true;
    case OPT_CLAIM_KEY: options->claim_key_path = value; return true;
    case OPT_CA: options->ca_path = value; return true;
    case OPT_ROOT: options->root_path = value; return true;
    case OPT_DIR: options->state_dir = value; return true;
    case OPT_CLASS: options->device_class = value; return true;
    case OPT_PREFIX: options->name_prefix = value; return true;
    case OPT_CSR_NAME: options->csr_name = value; return true;
    case OPT_DATASET: options->dataset_path = value; return true;
    default: return false;
    }
}

static bool take_value(options_t *options, int option, const char *value)
{
    switch (option - OPTION_BASE) {
    case OPT_EST: return read_address(value, options->est_host, options->est_port);
    case OPT_BROKER: return read_address(value, options->broker_host, options->broker_port);
    case OPT_COUNT: return read_u32(value, &options->count) && options->count >= 1U && options->count <= 10000U;
    case OPT_RATE: return read_rate(value, &options->rate_hz);
    case OPT_LABEL_DELAY: return read_u32(value, &options->label_delay_ms);
    case OPT_REPORT: return read_u32(value, &options->report_interval_s) && options->report_interval_s >= 1U;
    case OPT_SLEEP: return read_u32(value, &options->sleep_max_s);
    case OPT_RX: return read_u32(value, &options->rx_bytes_per_s);
    case OPT_SLOT: return read_u32(value, &options->slot_bytes);
    case OPT_ARENA: return read_u32(value, &options->arena_bytes);
    case OPT_STATE: return read_u32(value, &options->state_bytes) && options->state_bytes % 16U == 0;
    case OPT_ERASE: return read_u32(value, &options->erase_bytes);
    case OPT_PROGRAM: return read_u32(value, &options->program_bytes);
    case OPT_ERASE_MS: return read_u32(value, &options->erase_ms);
    case OPT_SEED: return read_number(value, UINT64_MAX, &options->seed);
    case OPT_FAULT: return read_fault(options, value);
    default: return take_text(options, option, value);
    }
}

static bool require(bool given, const char *option)
{
    if (!given) {
        (void)fprintf(stderr, "fleet_device: %s is missing (--help shows all options)\n", option);
    }
    return given;
}

static bool is_complete(const options_t *options)
{
    return require(options->broker_host[0] != '\0', "--broker") && require(options->ca_path != NULL, "--ca") &&
           require(options->root_path != NULL, "--root") && require(options->state_dir != NULL, "--dir") &&
           require(options->device_class != NULL, "--device-class");
}

bool options_parse(options_t *options, int argc, char **argv)
{
    int option = 0;
    int index = 0;
    *options = (options_t){.name_prefix = "device", .csr_name = "unassigned", .count = 1, .rate_hz = 1.0, .label_delay_ms = 1000,
                           .report_interval_s = 60, .slot_bytes = 262144, .arena_bytes = 65536, .state_bytes = 16384, .erase_bytes = 4096,
                           .program_bytes = 16, .erase_ms = 1, .seed = 1};
    while ((option = getopt_long(argc, argv, "", options_known, &index)) != -1) {
        if (option == OPTION_BASE + OPT_HELP) {
            (void)fputs(usage, stdout);
            exit(0);
        }
        if (option == '?') {
            return false;
        }
        if (!take_value(options, option, optarg)) {
            return complain(options_known[index].name, optarg);
        }
    }
    if (optind != argc) {
        return complain("the command", argv[optind]);
    }
    return is_complete(options);
}

fault_t options_fault(const options_t *options, uint32_t device)
{
    for (uint32_t i = 0; i < options->fault_count; i++) {
        if (options->faults[i].device == device) {
            return options->faults[i];
        }
    }
    return (fault_t){FAULT_NONE, device, 0};
}
