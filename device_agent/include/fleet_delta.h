/*
 * Streaming decoder of tinyfleet patches (ota/SPEC.md section 6): old image + patch bytes in pieces of any size -> new image,
 * written through a callback in pieces of one program unit.
 *
 * No heap, no globals; one fleet_delta_t per running update, owned by the caller. Not thread-safe, not for interrupts. Nothing
 * is trusted in a patch: it can end in an error or in wrong bytes (the caller checks the digest of the result), never in
 * a read outside the old image, a write outside the new one, or more than the declared output.
 */
#ifndef FLEET_DELTA_H
#define FLEET_DELTA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fleet_delta_model.h"
#include "fleet_status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FLEET_DELTA_BASE_ID_BYTES 8
#define FLEET_DELTA_OLD_CACHE_BYTES 32
#define FLEET_DELTA_INPUT_BYTES 64

/** What the caller knows and lends. Everything stays valid and unchanged until the decoder is no longer used. */
typedef struct {
    uint32_t old_bytes;   /**< size of the base image, 0 without one */
    uint32_t new_bytes;   /**< size of the result, from the release manifest; FLEET_DELTA_IMAGE_BYTES_MAX at most, unless it is stored */
    uint32_t patch_bytes; /**< size of the patch, from the assignment */
    uint8_t base_id[FLEET_DELTA_BASE_ID_BYTES]; /**< first bytes of the base's SHA-256, zeros without a base */
    /** Copy size old bytes at offset to data. Nonzero stops the decoder with FLEET_ERR_STORAGE. */
    int (*read_old)(void *ctx, uint32_t offset, uint8_t *data, uint32_t size);
    /** Copy size bytes at offset, written by write_new before, to data. Nonzero stops the decoder with FLEET_ERR_STORAGE. */
    int (*read_new)(void *ctx, uint32_t offset, uint8_t *data, uint32_t size);
    /** Write size new bytes at offset; offsets ascend without gaps, size is unit_bytes except for the last piece. Nonzero stops. */
    int (*write_new)(void *ctx, uint32_t offset, const uint8_t *data, uint32_t size);
    void *ctx;
    uint8_t *unit;       /**< buffer of unit_bytes */
    uint32_t unit_bytes; /**< flash program unit: a divisor of 256 */
    uint32_t checkpoint_align_bytes; /**< take checkpoints at multiples of this only (an erase block), 0 = at all */
    bool stored;         /**< the patch is the new image as it is */
} fleet_delta_config_t;

/** Where a decoder can go on after a power cut: everything before output_offset was handed to write_new. */
typedef struct {
    uint32_t input_offset;  /**< patch bytes consumed, 0 = start over */
    uint32_t output_offset; /**< new bytes written, a multiple of spacing */
    uint32_t spacing;       /**< bytes between checkpoints, 0 = none */
} fleet_delta_checkpoint_t;

/** Rows of weights and multipliers that biases are predicted from; private. */
typedef struct {
    uint32_t at[4]; /* old rows, new rows, old words, new words */
    uint32_t length;
    uint32_t ratio;
    uint8_t layer[3]; /* zero points of old and new image (int8), window */
} fleet_delta_rows_t;

/** Factor of 40 bits, the highest set; private. */
typedef struct {
    uint32_t high;
    uint8_t low;
} fleet_delta_factor_t;

/** Decoder state, about 2 KB; fields are private. Small ones stand first: the core reaches them with short instructions. */
typedef struct {
    uint8_t phase, op, grid_bits;
    bool fresh, starved;
    uint8_t input_first, input_count, cache_count;
    uint8_t lookahead; /* bytes that must be there for a step, unless the last one has come */
    uint16_t unit_used;
    int32_t status;       /* fleet_status_t */
    uint32_t energy;         /* of the residuals so far, as is balance; of words whether the latest one changed */
    int32_t balance; /* of the residuals so far; of words whether the latest one changed, and its trailing zeros */
    const fleet_delta_config_t *config;
    uint32_t range, code;         /* range coder */
    uint32_t received, consumed;  /* patch bytes taken from the caller, patch bytes decoded */
    uint32_t produced, block_end; /* new bytes decoded, end of the current block */
    uint32_t segment_left, old_offset; /* of the current segment; old_offset is also where old bytes go on */
    uint32_t rows_left, work;          /* bytes of rows that may still be added up, and that were */
    uint32_t cache_offset;
    fleet_delta_rows_t rows;          /* of the next bias */
    fleet_delta_factor_t factors[2];  /* ratio and step of the current grid */
    fleet_delta_checkpoint_t checkpoint;
    uint8_t input[FLEET_DELTA_INPUT_BYTES];
    uint8_t cache[FLEET_DELTA_OLD_CACHE_BYTES];
    uint16_t probability[FLEET_DELTA_CONTEXTS];
    uint8_t count[FLEET_DELTA_CONTEXTS];
} fleet_delta_t;

/**
 * Start at the first byte of a patch.
 * @param[out] delta  decoder
 * @param[in]  config lent until the decoder is no longer used
 * @return FLEET_OK, or FLEET_ERR_ARGUMENT
 */
fleet_status_t fleet_delta_init(fleet_delta_t *delta, const fleet_delta_config_t *config);

/**
 * Start at a checkpoint: the next byte pushed is patch byte checkpoint->input_offset, the next byte written is new byte
 * checkpoint->output_offset. An input_offset of 0 starts over.
 * @return FLEET_OK, or FLEET_ERR_ARGUMENT when the checkpoint cannot belong to this patch
 */
fleet_status_t fleet_delta_resume(fleet_delta_t *delta, const fleet_delta_config_t *config,
                                  const fleet_delta_checkpoint_t *checkpoint);

/**
 * Take patch bytes and write what they give. Returns when all of data is taken, or about budget_bytes of output
 * were decoded (a few input bytes can mean a long copy), or the image is complete: call again with the rest
 * until fleet_delta_wants_input() or fleet_delta_done().
 * @param[in,out] delta  decoder
 * @param[in]     data   patch bytes in order, any number; may be null when size is 0
 * @param[in]     size   bytes
 * @param[in]     budget_bytes decode at most this many bytes of output in this call, 4 or more
 * @param[out]    used   bytes of data taken
 * @return FLEET_OK, or the first error, again on every later call: FLEET_ERR_PATCH, FLEET_ERR_PATCH_BASE, FLEET_ERR_STORAGE
 */
fleet_status_t fleet_delta_push(fleet_delta_t *delta, const uint8_t *data, size_t size, uint32_t budget_bytes, size_t *used);

/** True when the last push stopped because it needs more patch bytes. */
bool fleet_delta_wants_input(const fleet_delta_t *delta);

/** True when new_bytes were written and every patch byte was used. */
bool fleet_delta_done(const fleet_delta_t *delta);

/** The latest checkpoint passed; input_offset 0 before the first. */
const fleet_delta_checkpoint_t *fleet_delta_checkpoint(const fleet_delta_t *delta);

#ifdef __cplusplus
}
#endif

#endif
