/* FFT of real frames in 32-bit integers: compiler/NUMERICS.md section 6. */
#ifndef FLEET_REAL_FFT_H
#define FLEET_REAL_FFT_H

#include <stdint.h>

typedef struct {
    int32_t re;
    int32_t im;
} fleet_complex_t;

/*
 * Twice the DFT of 2^log2 reals, in place. In: z[k] holds samples 2k and 2k + 1, 2^(log2 - 1) of them. Out: z[k] is bin k;
 * bins 0 and half are real, z[0] holds both (re: bin 0, im: bin half). `sine` is a quarter of a sine, 2^log2 / 4 + 1 values.
 */
void fleet_real_fft(fleet_complex_t *z, const int32_t *sine, uint32_t log2);

#endif
