/*
 * Load generator of `make bench-telemetry`: many MQTT connections that publish telemetry at QoS 1, in one epoll loop.
 * Reports are encoded by the agent's own CBOR writer. Counters of a device follow from how many reports it has sent, so
 * the sums that must stand in the database at the end are known without keeping them.
 *
 * telemetry_load HOST PORT CONNECTIONS DEVICES FIRST SECONDS RATE [CA CERTIFICATE KEY]
 * FIRST: reports each device has sent before; RATE: reports/s in all, 0 for as many as the broker takes.
 * Prints one JSON object: reports sent, reports acknowledged, payload bytes, seconds, CPU seconds, and per kind of device
 * (device number modulo KINDS) the sum over its devices of the number of its last report.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "cbor.h"
#include "fleet_protocol.h"

enum { KINDS = 5, WINDOW = 32, OUT_BYTES = 32768, IN_BYTES = 4096, BUCKETS = 8, CLASSES = 6, DRAIN_S = 60, EVENTS = 256 };

typedef struct {
    int socket;
    SSL *tls;
    uint32_t next; /* place of the next device among this connection's */
    uint16_t packet;
    uint32_t unacknowledged;
    uint32_t in_used;
    uint32_t out_used;
    uint8_t in[IN_BYTES];
    uint8_t out[OUT_BYTES];
} connection_t;

typedef struct {
    connection_t *connections;
    uint32_t count;
    uint32_t devices;
    uint32_t *reports; /* by device */
    uint64_t sent, acknowledged, payload_bytes;
    SSL_CTX *context;
} load_t;

static const uint32_t WEIGHTS[BUCKETS] = {1, 2, 5, 9, 6, 4, 2, 1}; /* inferences per report and latency bucket: 30 */

static void die(const char *what) {
    fprintf(stderr, "telemetry_load: %s: %s\n", what, errno != 0 ? strerror(errno) : "refused");
    exit(1);
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- one report */

static void put_pair(fleet_cbor_out_t *out, uint32_t key, uint64_t value) {
    fleet_cbor_put_uint(out, key);
    fleet_cbor_put_u64(out, value);
}

static void put_histogram(fleet_cbor_out_t *out, uint32_t key, uint32_t first, uint32_t used, uint64_t scale) {
    fleet_cbor_put_uint(out, key);
    fleet_cbor_put_array(out, 2U * used);
    for (uint32_t i = 0; i < used; i++) {
        put_pair(out, first + i, scale * WEIGHTS[i]);
    }
}

static void put_image(fleet_cbor_out_t *out, uint8_t image, uint32_t kind, uint64_t n) {
    const bool shadow = image != 0;
    const uint64_t active = shadow ? 0 : n;
    uint8_t id[16];
    memset(id, 0xA0 + image, sizeof id);
    fleet_cbor_put_map(out, 17);
    fleet_cbor_put_uint(out, FLEET_KEY_IMAGE_COUNTERS_IMAGE);
    fleet_cbor_put_bytes(out, id, sizeof id);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_ROLE, shadow ? FLEET_SLOT_STATE_SHADOW : FLEET_SLOT_STATE_CONFIRMED);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_INFERENCES, 30 * active);
    put_histogram(out, FLEET_KEY_IMAGE_COUNTERS_LATENCY_HISTOGRAM, 48 + kind, shadow ? 0 : BUCKETS, active);
    put_histogram(out, FLEET_KEY_IMAGE_COUNTERS_CONFIDENCE_HISTOGRAM, 2, BUCKETS, n);
    put_histogram(out, FLEET_KEY_IMAGE_COUNTERS_PREDICTIONS, kind, CLASSES, n);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_LABELLED, 3 * active);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_CORRECT, 2 * active);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_FAULTS, 0);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_ACTIVE_S, 60 * active);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_SHADOW_INFERENCES, shadow ? 30 * n : 0);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_SHADOW_AGREE, shadow ? 28 * n : 0);
    fleet_cbor_put_uint(out, FLEET_KEY_IMAGE_COUNTERS_SHADOW_PAIRS);
    fleet_cbor_put_array(out, 4);
    for (uint32_t i = 0; i < 4; i++) {
        fleet_cbor_put_u64(out, shadow ? n * i : 0);
    }
    put_histogram(out, FLEET_KEY_IMAGE_COUNTERS_SHADOW_LATENCY_HISTOGRAM, 50 + kind, shadow ? BUCKETS : 0, n);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_ARENA_HIGH_WATER_BYTES, 22528U + kind);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_ENERGY_UJ, 0);
    put_pair(out, FLEET_KEY_IMAGE_COUNTERS_ACTIVATIONS, shadow ? 0 : 1);
}

static uint32_t encode_report(uint8_t *data, uint32_t size, uint32_t kind, uint32_t n) {
    fleet_cbor_out_t out = fleet_cbor_writer(data, size);
    fleet_cbor_put_map(&out, 6);
    put_pair(&out, FLEET_KEY_TELEMETRY_PROTOCOL, FLEET_PROTOCOL_VERSION);
    put_pair(&out, FLEET_KEY_TELEMETRY_BOOT, 1);
    put_pair(&out, FLEET_KEY_TELEMETRY_REPORT, n);
    put_pair(&out, FLEET_KEY_TELEMETRY_UPTIME_S, 60ULL * n);
    fleet_cbor_put_uint(&out, FLEET_KEY_TELEMETRY_IMAGES);
    fleet_cbor_put_array(&out, 2);
    put_image(&out, 0, kind, n);
    put_image(&out, 1, kind, n);
    put_pair(&out, FLEET_KEY_TELEMETRY_STACK_HIGH_WATER_BYTES, 900U + kind);
    return out.used;
}

/* ---- MQTT */

static uint32_t put_length(uint8_t *data, uint32_t length) {
    uint32_t used = 0;
    do {
        const uint8_t digit = length & 0x7FU;
        length >>= 7;
        data[used++] = length > 0 ? digit | 0x80U : digit;
    } while (length > 0);
    return used;
}

static uint32_t put_text(uint8_t *data, const char *text) {
    const size_t length = strlen(text);
    data[0] = (uint8_t)(length >> 8);
    data[1] = (uint8_t)length;
    memcpy(data + 2, text, length);
    return (uint32_t)length + 2U;
}

static void flush(connection_t *c) {
    uint32_t done = 0;
    while (done < c->out_used) {
        int wrote = c->tls != NULL ? SSL_write(c->tls, c->out + done, (int)(c->out_used - done))
                                   : (int)write(c->socket, c->out + done, c->out_used - done);
        if (wrote <= 0) {
            const bool later = c->tls != NULL ? SSL_get_error(c->tls, wrote) == SSL_ERROR_WANT_WRITE : errno == EAGAIN;
            if (!later) {
                die("write");
            }
            break;
        }
        done += (uint32_t)wrote;
    }
    memmove(c->out, c->out + done, c->out_used - done);
    c->out_used -= done;
}

/** The device numbers of a connection are its own number plus multiples of the count of connections. */
static bool publish(load_t *load, uint32_t index) {
    connection_t *c = &load->connections[index];
    if (c->unacknowledged >= WINDOW || c->out_used > OUT_BYTES - 1024) {
        return false;
    }
    const uint32_t own = (load->devices - index + load->count - 1U) / load->count;
    const uint32_t device = index + load->count * (c->next++ % own);
    char topic[64];
    /* An odd factor spreads neighbours over the whole key space: no database gets them in order. */
    snprintf(topic, sizeof topic, "fleet/v1/d/m4-%08x/telemetry", (unsigned)(device * 2654435761U));
    uint8_t body[1024];
    uint32_t used = put_text(body, topic);
    c->packet = (uint16_t)(c->packet == 65535U ? 1U : c->packet + 1U);
    body[used++] = (uint8_t)(c->packet >> 8);
    body[used++] = (uint8_t)c->packet;
    const uint32_t payload = encode_report(body + used, (uint32_t)sizeof body - used, device % KINDS, ++load->reports[device]);
    used += payload;
    uint8_t *out = c->out + c->out_used;
    out[0] = 0x32;
    const uint32_t head = 1U + put_length(out + 1, used);
    memcpy(out + head, body, used);
    c->out_used += head + used;
    c->unacknowledged++;
    load->sent++;
    load->payload_bytes += payload;
    return true;
}

static void take(load_t *load, connection_t *c) {
    uint32_t at = 0;
    while (c->in_used - at >= 2U && c->in_used - at >= 2U + c->in[at + 1]) { /* the broker sends short packets only */
        if (c->in[at] == 0x40) {
            c->unacknowledged--;
            load->acknowledged++;
        }
        at += 2U + c->in[at + 1];
    }
    memmove(c->in, c->in + at, c->in_used - at);
    c->in_used -= at;
}

static void receive(load_t *load, connection_t *c) {
    for (;;) {
        const uint32_t room = IN_BYTES - c->in_used;
        const int got = c->tls != NULL ? SSL_read(c->tls, c->in + c->in_used, (int)room)
                                       : (int)read(c->socket, c->in + c->in_used, room);
        if (got <= 0) {
            const bool later = c->tls != NULL ? SSL_get_error(c->tls, got) == SSL_ERROR_WANT_READ : got < 0 && errno == EAGAIN;
            if (!later) {
                die("the broker closed a connection");
            }
            return;
        }
        c->in_used += (uint32_t)got;
        take(load, c);
    }
}

static void open_connection(load_t *load, uint32_t index, const struct sockaddr_in *address) {
    connection_t *c = &load->connections[index];
    c->socket = socket(AF_INET, SOCK_STREAM, 0);
    const int yes = 1;
    if (c->socket < 0 || connect(c->socket, (const struct sockaddr *)address, sizeof *address) != 0 ||
        setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) != 0) {
        die("connect");
    }
    if (load->context != NULL) {
        c->tls = SSL_new(load->context);
        SSL_set_fd(c->tls, c->socket);
        if (SSL_connect(c->tls) != 1) {
            die(ERR_reason_error_string(ERR_peek_last_error()));
        }
    }
    char name[32];
    snprintf(name, sizeof name, "load-%u", (unsigned)index);
    uint8_t *out = c->out;
    const uint32_t body = 10U + 2U + (uint32_t)strlen(name);
    memcpy(out, "\x10\x00\x00\x04MQTT\x04\x02\x00\x00", 12);
    out[1] = (uint8_t)body;
    c->out_used = 12U + put_text(out + 12, name);
    flush(c);
    uint8_t answer[4];
    const int got = c->tls != NULL ? SSL_read(c->tls, answer, 4) : (int)read(c->socket, answer, 4);
    if (got != 4 || answer[0] != 0x20 || answer[3] != 0) {
        errno = 0;
        die("CONNECT");
    }
    if (fcntl(c->socket, F_SETFL, O_NONBLOCK) != 0) {
        die("fcntl");
    }
}

/* ---- the run */

static void serve(load_t *load, int poll, int wait_ms) {
    struct epoll_event events[EVENTS];
    const int count = epoll_wait(poll, events, EVENTS, wait_ms);
    for (int i = 0; i < count; i++) {
        connection_t *c = &load->connections[events[i].data.u32];
        receive(load, c);
        if (c->out_used > 0) {
            flush(c);
        }
    }
}

static double run(load_t *load, int poll, double seconds, double rate) {
    const double started = seconds_now();
    double now = started;
    uint32_t turn = 0;
    while (now - started < seconds) {
        const double due = rate > 0 ? rate * (now - started) : (double)load->sent + load->count;
        for (uint32_t tried = 0; tried < load->count && (double)load->sent < due; tried++) {
            const uint32_t index = turn++ % load->count;
            if (publish(load, index)) {
                flush(&load->connections[index]);
            }
        }
        serve(load, poll, 1);
        now = seconds_now();
    }
    const double sending = now - started;
    while (load->acknowledged < load->sent && seconds_now() - now < DRAIN_S) {
        serve(load, poll, 10);
    }
    return sending;
}

static void print_result(const load_t *load, double seconds, double cpu) {
    printf("{\"sent\": %llu, \"acknowledged\": %llu, \"payload_bytes\": %llu, \"seconds\": %.3f, \"cpu_s\": %.3f, \"numbers\": [",
           (unsigned long long)load->sent, (unsigned long long)load->acknowledged,
           (unsigned long long)load->payload_bytes, seconds, cpu);
    for (uint32_t kind = 0; kind < KINDS; kind++) {
        uint64_t sum = 0;
        for (uint32_t device = kind; device < load->devices; device += KINDS) {
            sum += load->reports[device];
        }
        printf("%s%llu", kind > 0 ? ", " : "", (unsigned long long)sum);
    }
    printf("]}\n");
}

static SSL_CTX *make_context(char **files) {
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || SSL_CTX_load_verify_locations(context, files[0], NULL) != 1 ||
        SSL_CTX_use_certificate_file(context, files[1], SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, files[2], SSL_FILETYPE_PEM) != 1) {
        die("certificates");
    }
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return context;
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

int main(int argc, char **argv) {
    if (argc != 8 && argc != 11) {
        fprintf(stderr, "telemetry_load HOST PORT CONNECTIONS DEVICES FIRST SECONDS RATE [CA CERTIFICATE KEY]\n");
        return 2;
    }
    load_t load = {.count = (uint32_t)atoi(argv[3]), .devices = (uint32_t)atoi(argv[4])};
    load.connections = calloc(load.count, sizeof *load.connections);
    load.reports = malloc(load.devices * sizeof *load.reports);
    if (load.connections == NULL || load.reports == NULL || load.devices < load.count) {
        die("memory, or fewer devices than connections");
    }
    for (uint32_t i = 0; i < load.devices; i++) {
        load.reports[i] = (uint32_t)atoi(argv[5]);
    }
    load.context = argc == 11 ? make_context(argv + 8) : NULL;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &address.sin_addr);
    const int poll = epoll_create1(0);
    for (uint32_t i = 0; i < load.count; i++) {
        open_connection(&load, i, &address);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        epoll_ctl(poll, EPOLL_CTL_ADD, load.connections[i].socket, &event);
    }
    const double before = cpu_seconds();
    const double seconds = run(&load, poll, atof(argv[6]), atof(argv[7]));
    print_result(&load, seconds, cpu_seconds() - before);
    return load.acknowledged == load.sent ? 0 : 1;
}
