/*
 * The memory functions that compilers call by themselves, for a bootloader that links no libc. Not part of the fleet_agent library.
 * Through volatile pointers: else the loop of memcpy would be made into a call of memcpy.
 */
#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
    volatile unsigned char *out = to;
    const unsigned char *in = from;
    for (size_t i = 0; i < bytes; i++) {
        out[i] = in[i];
    }
    return to;
}

void *memset(void *to, int value, size_t bytes) {
    volatile unsigned char *out = to;
    for (size_t i = 0; i < bytes; i++) {
        out[i] = (unsigned char)value;
    }
    return to;
}
