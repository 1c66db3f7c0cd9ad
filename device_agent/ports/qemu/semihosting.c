/* Source: Semihosting for AArch32 and AArch64, Arm, 2.0: operation in r0, argument block in r1, BKPT 0xAB on M profile. */
#include "bench.h"

#include <string.h>

enum { SYS_OPEN = 0x01, SYS_WRITE0 = 0x04, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT = 0x18 };
#define STOPPED_APPLICATION_EXIT 0x20026u
#define STOPPED_RUN_TIME_ERROR 0x20023u

static int call(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

int fleet_host_open(const char *name, fleet_host_mode_t mode)
{
    const uintptr_t block[3] = {(uintptr_t)name, (uintptr_t)mode, strlen(name)};
    return call(SYS_OPEN, block);
}

size_t fleet_host_read(int file, void *data, size_t bytes)
{
    const uintptr_t block[3] = {(uintptr_t)file, (uintptr_t)data, bytes};
    return bytes - (size_t)call(SYS_READ, block);
}

int fleet_host_write(int file, const void *data, size_t bytes)
{
    const uintptr_t block[3] = {(uintptr_t)file, (uintptr_t)data, bytes};
    return call(SYS_WRITE, block);
}

void fleet_host_print(const char *text)
{
    (void)call(SYS_WRITE0, text);
}

void fleet_host_exit(int failed)
{
    const uintptr_t reason = failed ? STOPPED_RUN_TIME_ERROR : STOPPED_APPLICATION_EXIT;
    for (;;) {
        (void)call(SYS_EXIT, (const void *)reason);
    }
}
