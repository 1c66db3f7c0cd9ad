/*
 * fleet_device: one or many device agents in one process, on the POSIX port. One loop: step every device that is due or has
 * bytes, then wait for the next. SIGTERM and SIGINT end it in order (last state published); kill -9 is a power cut.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

#define ROOT_MAX_BYTES 4096U
#define STOP_TIMEOUT_MS 15000U
#define WAIT_MAX_MS 1000U

/* The only thing a signal handler can reach. */
static volatile sig_atomic_t stop_wanted;

static void want_stop(int number)
{
    (void)number;
    stop_wanted = 1;
}

static void handle_signals(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = want_stop;
    (void)sigaction(SIGTERM, &action, NULL);
    (void)sigaction(SIGINT, &action, NULL);
    action.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &action, NULL); /* a broken connection is a return value */
    (void)sigaction(SIGXFSZ, &action, NULL); /* so is a full file */
}

static bool read_root(const char *path, uint8_t root[ROOT_MAX_BYTES], uint32_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        (void)fprintf(stderr, "fleet_device: cannot read root %s: %s\n", path, strerror(errno));
        return false;
    }
    *bytes = (uint32_t)fread(root, 1, ROOT_MAX_BYTES, file);
    bool whole = *bytes > 0U && *bytes < ROOT_MAX_BYTES && ferror(file) == 0;
    (void)fclose(file);
    if (!whole) {
        (void)fprintf(stderr, "fleet_device: %s is no root (empty or too long)\n", path);
    }
    return whole;
}

static void wait_for_work(device_t *devices, uint32_t count, struct pollfd *sockets)
{
    uint64_t now_ms = fleet_posix_now_ms();
    uint64_t next_ms = now_ms + WAIT_MAX_MS;
    for (uint32_t i = 0; i < count; i++) {
        sockets[i].revents = 0;
        sockets[i].fd = device_socket(&devices[i], now_ms, &sockets[i].events);
        next_ms = devices[i].next_ms < next_ms ? devices[i].next_ms : next_ms;
    }
    int timeout_ms = next_ms > now_ms ? (int)(next_ms - now_ms) : 0;
    if (poll(sockets, count, timeout_ms) <= 0) {
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (sockets[i].fd >= 0 && sockets[i].revents != 0) {
            devices[i].next_ms = 0;
        }
    }
}

static bool any_lives(const device_t *devices, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (devices[i].phase != DEVICE_FAILED) {
            return true;
        }
    }
    return false;
}

static void run(device_t *devices, uint32_t count, struct pollfd *sockets)
{
    while (stop_wanted == 0 && any_lives(devices, count)) {
        for (uint32_t i = 0; i < count; i++) {
            uint64_t now_ms = fleet_posix_now_ms();
            if (devices[i].next_ms <= now_ms) {
                device_step(&devices[i], now_ms);
            }
        }
        wait_for_work(devices, count, sockets);
    }
}

static void stop(device_t *devices, uint32_t count, struct pollfd *sockets)
{
    uint64_t end_ms = fleet_posix_now_ms() + STOP_TIMEOUT_MS;
    bool done = false;
    while (!done && fleet_posix_now_ms() < end_ms) {
        done = true;
        for (uint32_t i = 0; i < count; i++) {
            done = device_stop(&devices[i], fleet_posix_now_ms()) && done;
        }
        if (!done) {
            wait_for_work(devices, count, sockets);
        }
    }
}

static int serve(world_t *world)
{
    uint32_t count = world->options->count;
    device_t *devices = calloc(count, sizeof *devices);
    struct pollfd *sockets = calloc(count, sizeof *sockets);
    if (devices == NULL || sockets == NULL) {
        (void)fprintf(stderr, "fleet_device: out of memory for %lu devices: lower --count\n", (unsigned long)count);
        free(devices);
        free(sockets);
        return 1;
    }
    for (uint32_t i = 0; i < count; i++) {
        (void)device_open(&devices[i], world, i);
    }
    run(devices, count, sockets);
    bool lived = any_lives(devices, count);
    stop(devices, count, sockets);
    for (uint32_t i = 0; i < count; i++) {
        device_close(&devices[i]);
    }
    free(devices);
    free(sockets);
    return lived ? 0 : 1;
}

int main(int argc, char **argv)
{
    options_t options;
    dataset_t dataset;
    uint8_t root[ROOT_MAX_BYTES];
    char error[256];
    world_t world = {.options = &options, .root = root};
    if (!options_parse(&options, argc, argv) || !read_root(options.root_path, root, &world.root_bytes)) {
        return 2;
    }
    if (options.dataset_path != NULL) {
        if (!dataset_open(&dataset, options.dataset_path, error, sizeof error)) {
            (void)fprintf(stderr, "fleet_device: %s\n", error);
            return 2;
        }
        world.dataset = &dataset;
    }
    handle_signals();
    return serve(&world);
}
