/* What the bench firmware's files share: semihosting (files of the host that runs QEMU) and the instruction counter. */
#ifndef FLEET_BENCH_H
#define FLEET_BENCH_H

#include <stddef.h>
#include <stdint.h>

/* Symbols of the linker script; only their addresses mean something. */
extern uint32_t fleet_data_load[], fleet_data_start[], fleet_data_end[], fleet_bss_start[], fleet_bss_end[];
extern uint32_t fleet_stack_low[], fleet_stack_high[];
extern uint8_t fleet_runtime_start[], fleet_runtime_end[];

int main(void);
void fleet_reset(void);
void fleet_systick(void);

typedef enum { FLEET_HOST_READ = 1, FLEET_HOST_WRITE = 5 } fleet_host_mode_t; /* fopen's "rb" and "wb" */

/** Open a file in QEMU's working directory; negative when it cannot be. */
int fleet_host_open(const char *name, fleet_host_mode_t mode);

/** Read up to `bytes`; returns the bytes read. */
size_t fleet_host_read(int file, void *data, size_t bytes);

/** Write all bytes; 0 on success. */
int fleet_host_write(int file, const void *data, size_t bytes);

/** Write text on QEMU's console. */
void fleet_host_print(const char *text);

/** Leave QEMU; its exit code is 0 or 1. */
void fleet_host_exit(int failed);

/** The image and the bytes readable from its first on; 0 bytes when there is none. */
const uint8_t *fleet_bench_image(size_t *bytes);

/** Let the counter run. Under `-icount shift=0` an instruction is 1 ns: one SysTick tick is 40 of them at 25 MHz. */
void fleet_counter_start(void);

/** Instructions since start, in steps of a tick. */
uint64_t fleet_counter_instructions(void);

#endif
