#define _DEFAULT_SOURCE /* tm_gmtoff */

#include <time.h>

#include "fleet_posix.h"

static struct timespec monotonic(void)
{
    struct timespec now = {0, 0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return now;
}

uint64_t fleet_posix_now_ms(void)
{
    struct timespec now = monotonic();
    return (uint64_t)now.tv_sec * 1000U + (uint64_t)now.tv_nsec / 1000000U;
}

static uint32_t now_us(void *ctx)
{
    (void)ctx;
    struct timespec now = monotonic();
    return (uint32_t)((uint64_t)now.tv_sec * 1000000U + (uint64_t)now.tv_nsec / 1000U);
}

static uint64_t wall_clock_s(void *ctx)
{
    (void)ctx;
    time_t now = time(NULL);
    return now > 0 ? (uint64_t)now : 0U;
}

static int32_t utc_offset_min(void *ctx)
{
    (void)ctx;
    time_t now = time(NULL);
    struct tm local;
    return localtime_r(&now, &local) != NULL ? (int32_t)(local.tm_gmtoff / 60) : 0;
}

fleet_clock_t fleet_posix_clock(void)
{
    fleet_clock_t clock = {now_us, wall_clock_s, utc_offset_min, NULL, NULL};
    return clock;
}
