/*
 * The board of docs/integrator-guide.md on this machine, for test_integrator_guide.py: flash in memory, a network that is never
 * there, OpenSSL's cryptography. Prints what fleet_agent_init answered and what the agent then tried.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fleet_agent.h"
#include "fleet_posix.h"
#include "product.h"

#define BLOCK_BYTES 4096U
#define POLLS 100U
#define RESET_AT 90U

fleet_status_t product_fleet_start(void);
void product_fleet_poll(void);

static uint8_t memory[FLASH_BYTES] __attribute__((aligned(16)));
static fleet_posix_crypto_t crypto;
static unsigned dials;
static unsigned polls;
static unsigned restarts;

static fleet_status_t read_flash(void *ctx, uint32_t offset, void *data, uint32_t bytes)
{
    (void)ctx;
    memcpy(data, memory + offset, bytes);
    return FLEET_OK;
}

static fleet_status_t write_flash(void *ctx, uint32_t offset, const void *data, uint32_t bytes)
{
    (void)ctx;
    memcpy(memory + offset, data, bytes);
    return FLEET_OK;
}

static fleet_status_t erase_flash(void *ctx, uint32_t offset)
{
    (void)ctx;
    memset(memory + offset, 0xFF, BLOCK_BYTES);
    return FLEET_OK;
}

static int erase_busy(void *ctx)
{
    (void)ctx;
    return 0;
}

const fleet_flash_t product_flash = {.read = read_flash,
                                     .prog = write_flash,
                                     .erase_start = erase_flash,
                                     .erase_busy = erase_busy,
                                     .mapped = memory,
                                     .size = FLASH_BYTES,
                                     .erase_bytes = BLOCK_BYTES,
                                     .program_bytes = 8};

static int dial(void *ctx)
{
    (void)ctx;
    dials++;
    return FLEET_ERR_NETWORK;
}

static int32_t send_nothing(void *ctx, const uint8_t *data, uint32_t bytes)
{
    (void)ctx;
    (void)data;
    (void)bytes;
    return -1;
}

static int32_t receive_nothing(void *ctx, uint8_t *data, uint32_t bytes)
{
    (void)ctx;
    (void)data;
    (void)bytes;
    return -1;
}

static void hang_up(void *ctx)
{
    (void)ctx;
}

const fleet_transport_t product_broker = {
    .connect = dial, .send = send_nothing, .recv = receive_nothing, .close = hang_up};

static void sha256_init(void *ctx, fleet_sha256_t *state)
{
    const fleet_crypto_t port = fleet_posix_crypto_port(&crypto);
    (void)ctx;
    port.sha256_init(port.ctx, state);
}

static void sha256_update(void *ctx, fleet_sha256_t *state, const void *data, size_t bytes)
{
    const fleet_crypto_t port = fleet_posix_crypto_port(&crypto);
    (void)ctx;
    port.sha256_update(port.ctx, state, data, bytes);
}

static void sha256_final(void *ctx, fleet_sha256_t *state, uint8_t digest[32])
{
    const fleet_crypto_t port = fleet_posix_crypto_port(&crypto);
    (void)ctx;
    port.sha256_final(port.ctx, state, digest);
}

static bool ed25519_verify(void *ctx, const uint8_t key[32], const uint8_t *message, size_t bytes, const uint8_t signature[64])
{
    const fleet_crypto_t port = fleet_posix_crypto_port(&crypto);
    (void)ctx;
    return port.ed25519_verify(port.ctx, key, message, bytes, signature);
}

static fleet_status_t fill_random(void *ctx, void *data, size_t bytes)
{
    const fleet_crypto_t port = fleet_posix_crypto_port(&crypto);
    (void)ctx;
    return port.random(port.ctx, data, bytes);
}

const fleet_crypto_t product_crypto = {.sha256_init = sha256_init,
                                       .sha256_update = sha256_update,
                                       .sha256_final = sha256_final,
                                       .ed25519_verify = ed25519_verify,
                                       .random = fill_random};

const fleet_clock_t product_clock = {.now_us = NULL};
const char *const product_device_id = "board-1";

uint64_t product_now_ms(void)
{
    return polls * 10000ULL;
}

bool product_sample(float input[PRODUCT_INPUTS])
{
    memset(input, 0, PRODUCT_INPUTS * sizeof *input);
    return true;
}

void product_answer(uint32_t top, float confidence)
{
    (void)top;
    (void)confidence;
    abort(); /* there is no model that could have answered */
}

bool product_truth(uint32_t *inference, uint32_t *label)
{
    *inference = 7;
    *label = 1;
    return true;
}

bool product_reset_held(void)
{
    return polls == RESET_AT;
}

void product_restart(void)
{
    restarts++;
}

int main(void)
{
    memset(memory, 0xFF, sizeof memory);
    fleet_posix_crypto_open(&crypto, "key.pem");
    const fleet_status_t started = product_fleet_start();
    for (polls = 0; started == FLEET_OK && polls < POLLS; polls++) {
        product_fleet_poll();
    }
    (void)printf("%s; dialled %s; restarts %u\n", fleet_status_text(started), dials > 1U ? "again and again" : "never", restarts);
    return 0;
}
