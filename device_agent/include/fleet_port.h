/*
 * What a product supplies to the agent: flash, a byte stream to the broker, cryptography, clock and reset.
 * Each is a struct of function pointers and a context that is handed back on every call; the structs are constant after
 * fleet_agent_init and are only called from the thread that calls the agent. None may block longer than it says here.
 * Functions answer FLEET_OK or a negative fleet_status_t unless said otherwise. docs: device_agent/PORTING.md.
 */
#ifndef FLEET_PORT_H
#define FLEET_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fleet_status.h"

/** Largest program unit of a flash; also the size of the agent's only write buffer. */
#define FLEET_FLASH_UNIT_MAX 256U

/**
 * One flash area that belongs to the agent alone. Offsets are relative to its start.
 * NOR rules hold: an erase sets a block to 0xFF, a program only clears bits, and each unit is programmed once between
 * two erases. The agent neither reads nor programs through this port while an erase runs; it does read `mapped`.
 */
typedef struct {
    /** Copies bytes out. May fail (a torn unit on flash with ECC): the agent takes that unit for invalid. */
    fleet_status_t (*read)(void *ctx, uint32_t offset, void *data, uint32_t bytes);
    /** Programs whole units; blocks until they are stored. */
    fleet_status_t (*prog)(void *ctx, uint32_t offset, const void *data, uint32_t bytes);
    /** Starts to erase the block at `offset` and returns at once. One erase at a time. */
    fleet_status_t (*erase_start)(void *ctx, uint32_t offset);
    /** 1 while an erase runs, 0 when it is done (or none was started), negative when it failed. */
    int (*erase_busy)(void *ctx);
    /** Where the area is mapped for reading; model images run in place from here. 16-byte aligned, never null. */
    const uint8_t *mapped;
    uint32_t size;          /**< bytes, a multiple of erase_bytes */
    uint32_t erase_bytes;   /**< erase block, a multiple of program_bytes */
    uint32_t program_bytes; /**< program unit, a power of two, 1..FLEET_FLASH_UNIT_MAX */
    void *ctx;
} fleet_flash_t;

/** fleet_transport_t.connect: still busy, call again. */
#define FLEET_CONNECT_PENDING 1

/**
 * A reliable byte stream to the broker: TCP with TLS inside the port (the device's certificate shown, the server's
 * certificate and host name checked). Nothing here blocks.
 */
typedef struct {
    /** Starts or continues to connect: FLEET_OK connected, FLEET_CONNECT_PENDING, negative failed (call close, try later). */
    int (*connect)(void *ctx);
    /** Bytes taken, 0 when none can be taken now, negative when the stream is broken. */
    int32_t (*send)(void *ctx, const uint8_t *data, uint32_t bytes);
    /** Bytes received, 0 when none are there now, negative when the stream ended or broke. */
    int32_t (*recv)(void *ctx, uint8_t *data, uint32_t bytes);
    /** Ends the connection, whatever state it is in. */
    void (*close)(void *ctx);
    void *ctx;
} fleet_transport_t;

/** Room for the port's SHA-256 state (OpenSSL, mbedTLS, PSA and hand-written ones fit). */
typedef struct {
    uint64_t opaque[30];
} fleet_sha256_t;

/** Cryptography. SHA-256, Ed25519 and P-256 verify updates; the P-256 key is the device's own (fleet_provision.h). */
typedef struct {
    void (*sha256_init)(void *ctx, fleet_sha256_t *state);
    void (*sha256_update)(void *ctx, fleet_sha256_t *state, const void *data, size_t bytes);
    void (*sha256_final)(void *ctx, fleet_sha256_t *state, uint8_t digest[32]);
    /** RFC 8032 Ed25519, S < L required and small-order keys refused: true only for a valid signature. */
    bool (*ed25519_verify)(void *ctx, const uint8_t public_key[32], const uint8_t *message, size_t bytes,
                           const uint8_t signature[64]);
    /**
     * ECDSA on P-256 over a SHA-256 digest (COSE ES256); the key is a compressed point, the signature big-endian r || s.
     * True only for a point on the curve and r, s from 1 to n - 1. Null: keys of P-256 in a root verify nothing here.
     */
    bool (*p256_verify)(void *ctx, const uint8_t public_key[33], const uint8_t digest[32], const uint8_t signature_rs[64]);
    /** Fills `data` from a cryptographic random source. */
    fleet_status_t (*random)(void *ctx, void *data, size_t bytes);
    /** Makes (or opens, when there is one) the device's P-256 key, which never leaves the port. Big-endian X || Y. */
    fleet_status_t (*p256_key)(void *ctx, uint8_t public_xy[64]);
    /** ECDSA over a SHA-256 digest with that key. Big-endian R || S. */
    fleet_status_t (*p256_sign)(void *ctx, const uint8_t digest[32], uint8_t signature_rs[64]);
    /**
     * ECDH of that key with a point X || Y: the X of the result. Fails for a point off the curve. Null, as `aes128_gcm_open` may be:
     * encrypted images are refused with CONTENT_KEY.
     */
    fleet_status_t (*p256_agree)(void *ctx, const uint8_t peer_xy[64], uint8_t secret[32]);
    /** AES-128-GCM without additional data: decrypts `data` in place. False, and `data` worthless, when the tag differs. */
    bool (*aes128_gcm_open)(void *ctx, const uint8_t key[16], const uint8_t nonce[12], uint8_t *data, size_t bytes,
                            const uint8_t tag[16]);
    void *ctx;
} fleet_crypto_t;

/** Time and reset. The step function is given milliseconds; this is for what it cannot know. */
typedef struct {
    /** Free-running microseconds for latencies, wraps at 2^32. Null: latencies are not measured. */
    uint32_t (*now_us)(void *ctx);
    /** Unix seconds, 0 while unknown. Null: no wall clock, `not-before` and `window` are ignored. */
    uint64_t (*wall_clock_s)(void *ctx);
    /** Minutes that local time is ahead of UTC. Null: 0. */
    int32_t (*utc_offset_min)(void *ctx);
    /** Restarts the device (a command asked for it). Null: the command is refused. May return in a hosted port. */
    void (*reset)(void *ctx);
    void *ctx;
} fleet_clock_t;

/** fleet_firmware_t.self_test: not decided yet. */
#define FLEET_SELF_TEST_PENDING 1

/**
 * The firmware itself under MCUboot, with swap (test and revert) and slots of equal size. Offsets are relative to each slot. The agent
 * programs the secondary slot and, to keep an update, image_ok in the primary one; program units of at most 32 bytes.
 */
typedef struct {
    const fleet_flash_t *primary;   /**< the slot that runs; `mapped` is not used */
    const fleet_flash_t *secondary; /**< where updates go; `mapped` is not used */
    /** Whether the firmware that runs works: FLEET_OK, FLEET_SELF_TEST_PENDING (asked again with the next step), negative: it does not. */
    int (*self_test)(void *ctx);
    void *ctx;
} fleet_firmware_t;

#endif
