/* SHA-256, FIPS 180-4 sections 5 and 6.2; written for clarity. */
#include <string.h>

#include "fault.h"

enum { BLOCK = 64, LENGTH_AT = 56 };

typedef struct {
    uint32_t h[8];
    uint32_t fill;
    uint64_t bytes;
    uint8_t block[BLOCK];
} sha256_t;

typedef char fits_the_port[sizeof(sha256_t) <= sizeof(fleet_sha256_t) ? 1 : -1];

static const uint32_t k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t turn(uint32_t value, uint32_t bits) {
    return value >> bits | value << (32u - bits);
}

static void take_block(sha256_t *sha) {
    uint32_t w[64];
    uint32_t v[8];
    memcpy(v, sha->h, sizeof v);
    for (uint32_t i = 0; i < 16; i++) {
        const uint8_t *at = sha->block + 4u * i;
        w[i] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
    }
    for (uint32_t i = 16; i < 64; i++) {
        const uint32_t low = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3;
        const uint32_t high = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + low + w[i - 7] + high;
    }
    for (uint32_t i = 0; i < 64; i++) {
        const uint32_t e = turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25);
        const uint32_t a = turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22);
        const uint32_t one = v[7] + e + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
        const uint32_t two = a + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += one;
        v[0] = one + two;
    }
    for (uint32_t i = 0; i < 8; i++) {
        sha->h[i] += v[i];
    }
    sha->fill = 0;
}

static void put(sha256_t *sha, uint8_t byte) {
    sha->block[sha->fill++] = byte;
    if (sha->fill == BLOCK) {
        take_block(sha);
    }
}

void sha256_init(void *ctx, fleet_sha256_t *state) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    sha256_t *sha = (sha256_t *)(void *)state;
    (void)ctx;
    memset(sha, 0, sizeof *sha);
    memcpy(sha->h, start, sizeof start);
}

void sha256_update(void *ctx, fleet_sha256_t *state, const void *data, size_t bytes) {
    sha256_t *sha = (sha256_t *)(void *)state;
    (void)ctx;
    sha->bytes += bytes;
    for (size_t i = 0; i < bytes; i++) {
        put(sha, ((const uint8_t *)data)[i]);
    }
}

void sha256_final(void *ctx, fleet_sha256_t *state, uint8_t digest[32]) {
    sha256_t *sha = (sha256_t *)(void *)state;
    const uint64_t bits = 8u * sha->bytes;
    (void)ctx;
    put(sha, 0x80);
    while (sha->fill != LENGTH_AT) {
        put(sha, 0);
    }
    for (uint32_t i = 0; i < 8; i++) {
        put(sha, (uint8_t)(bits >> (56u - 8u * i)));
    }
    for (uint32_t i = 0; i < 32; i++) {
        digest[i] = (uint8_t)(sha->h[i / 4u] >> (24u - 8u * (i % 4u)));
    }
}
