#include "slow_link.h"

#include "fleet_posix.h"

#define BURST_S 0.25
#define PORTION_BYTES 64.0 /* worth waking up for */

static double burst_bytes(const slow_link_t *link)
{
    double burst = link->bytes_per_s * BURST_S;
    return burst < PORTION_BYTES ? PORTION_BYTES : burst;
}

static void fill(slow_link_t *link, uint64_t now_ms)
{
    link->credit_bytes += (double)(now_ms - link->filled_ms) * link->bytes_per_s / 1000.0;
    link->filled_ms = now_ms;
    if (link->credit_bytes > burst_bytes(link)) {
        link->credit_bytes = burst_bytes(link);
    }
}

static int slow_link_connect(void *ctx)
{
    slow_link_t *link = ctx;
    return link->inner.connect(link->inner.ctx);
}

static int32_t slow_link_send(void *ctx, const uint8_t *data, uint32_t bytes)
{
    slow_link_t *link = ctx;
    return link->inner.send(link->inner.ctx, data, bytes);
}

static int32_t slow_link_recv(void *ctx, uint8_t *data, uint32_t bytes)
{
    slow_link_t *link = ctx;
    if (link->bytes_per_s == 0U) {
        return link->inner.recv(link->inner.ctx, data, bytes);
    }
    fill(link, fleet_posix_now_ms());
    uint32_t allowed = link->credit_bytes < bytes ? (uint32_t)link->credit_bytes : bytes;
    if (allowed == 0U) {
        return 0;
    }
    int32_t got = link->inner.recv(link->inner.ctx, data, allowed);
    link->credit_bytes -= got > 0 ? got : 0;
    return got;
}

static void slow_link_close(void *ctx)
{
    slow_link_t *link = ctx;
    link->inner.close(link->inner.ctx);
}

void slow_link_open(slow_link_t *link, fleet_transport_t inner, uint32_t bytes_per_s, uint64_t now_ms)
{
    *link = (slow_link_t){inner, bytes_per_s, 0.0, now_ms};
}

fleet_transport_t slow_link_port(slow_link_t *link)
{
    fleet_transport_t port = {slow_link_connect, slow_link_send, slow_link_recv, slow_link_close, link};
    return port;
}

bool slow_link_is_throttled(slow_link_t *link, uint64_t now_ms, uint64_t *wake_ms)
{
    if (link->bytes_per_s == 0U) {
        return false;
    }
    fill(link, now_ms);
    double missing = PORTION_BYTES - link->credit_bytes;
    *wake_ms = now_ms + 1U + (uint64_t)(missing > 0.0 ? missing * 1000.0 / link->bytes_per_s : 0.0);
    return missing > 0.0;
}
