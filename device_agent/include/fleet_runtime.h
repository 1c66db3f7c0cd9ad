/*
 * The model runtime: runs a model image (compiler/SPEC.md) where it lies, in flash or in memory.
 *
 *   fleet_model_open -> fleet_model_verify (once per boot) -> fleet_model_attach_state (models that have state)
 *   -> fleet_model_golden (once per image)
 *   -> for each inference: fleet_model_run, or fleet_model_set_input + fleet_model_invoke + fleet_model_output
 *
 * No heap, no mutable globals, nothing kept between calls but what the caller holds: the handle (12 bytes on a
 * 32-bit core), the arena, and the state buffer of a model that has state.
 * The image must stay readable and unchanged while the handle is in use; after fleet_model_open says FLEET_OK no call
 * reads outside the image or touches memory outside the arena, whatever the image holds.
 * Thread note: any number of models and arenas may run at once; one arena serves one call at a time. Not for interrupts.
 */
#ifndef FLEET_RUNTIME_H
#define FLEET_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#include "fleet_status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** An opened image. Treat as opaque; copying it is fine, copies share the state buffer. */
typedef struct {
    const uint8_t *image;
    uint32_t image_bytes;
    uint8_t *state; /* of fleet_model_attach_state */
} fleet_model_t;

/** What the image says about itself. Text is NUL-terminated and lies in the image. */
typedef struct {
    const char *name;
    const char *version;
    const char *device_class;
    uint32_t image_bytes;
    uint32_t abi;
    uint32_t kernel_set;
    uint32_t arena_bytes; /**< activations + scratch, inputs and outputs included */
    uint32_t state_bytes; /**< model state kept between inferences, 0: none */
    uint32_t op_count;
    uint32_t input_count;
    uint32_t output_count;
    uint32_t label_count;
} fleet_model_info_t;

/** One model input or output, channels last. real value = (q - zero_point) * scale; float32 values are real as they are. */
typedef struct {
    const char *name;
    uint32_t element; /**< FLEET_ELEMENT_INT8; FLEET_ELEMENT_INT16 at even arena offsets; FLEET_ELEMENT_FLOAT32 at multiples of 4 */
    uint32_t arena_offset;
    uint32_t size_bytes;
    uint32_t rank;
    uint32_t dims[4];
    float scale;
    int32_t zero_point;
} fleet_tensor_t;

/** Elements of a tensor: its bytes over those of one element. */
uint32_t fleet_tensor_elements(const fleet_tensor_t *tensor);

/** What one step did, for profilers and golden vectors: one op, or one row of an op in a cascade. */
typedef struct {
    uint32_t index;        /**< op number, from 0 */
    uint32_t code;         /**< FLEET_OP_* */
    const int8_t *output;  /**< in the arena: the op's whole output, or the row */
    uint32_t output_bytes;
} fleet_step_t;

/** Where a stepwise inference stands. Begin with all zero. */
typedef struct {
    uint32_t index;  /**< next op */
    uint32_t offset; /**< of its record among the op records, bytes */
    uint32_t cascade;   /**< offset of the next cascade among the cascades, bytes */
    uint32_t rows_left; /**< rows to go in the cascade that runs */
} fleet_cursor_t;

/**
 * Check an image's structure and make a handle. Reads only bytes below `image_bytes`, whatever they hold. The CRC is
 * fleet_model_verify's.
 * @param[out] model set on FLEET_OK only
 * @param[in] image 16-byte aligned
 * @param[in] image_bytes readable bytes at `image`; the image may be shorter (slot size is fine)
 * @return FLEET_OK, FLEET_ERR_ARGUMENT, _PLATFORM, _ALIGNMENT, _TRUNCATED, _MAGIC, _VERSION, _ABI, _KERNEL_SET, _LAYOUT,
 *         _OPERATOR or _PACKING
 */
fleet_status_t fleet_model_open(fleet_model_t *model, const void *image, size_t image_bytes);

/**
 * CRC over all bytes of the image: any flipped bit gives FLEET_ERR_CRC; then the values of the channel arrays and the section table's
 * entries (FLEET_ERR_LAYOUT). Time: about 10 instructions a byte.
 */
fleet_status_t fleet_model_verify(const fleet_model_t *model);

/**
 * Lend a model its state buffer, where fleet_model_info says it has state, and put the initial state there. The buffer stays
 * the model's until another one is attached; between inferences nobody else writes it. Models without state need no call.
 * @param[in] state 16-byte aligned, at least state_bytes of fleet_model_info; may be null where that is 0
 * @return FLEET_OK, FLEET_ERR_ARGUMENT, FLEET_ERR_ALIGNMENT, FLEET_ERR_STATE: the buffer is too small
 */
fleet_status_t fleet_model_attach_state(fleet_model_t *model, void *state, size_t state_bytes);

/** Begin a stream anew: the initial state again. @return FLEET_OK, FLEET_ERR_ARGUMENT, FLEET_ERR_STATE: none attached */
fleet_status_t fleet_model_reset_state(const fleet_model_t *model);

/** Fill `info` from the header. */
void fleet_model_info(const fleet_model_t *model, fleet_model_info_t *info);

/** Describe input `index`. @return FLEET_OK or FLEET_ERR_ARGUMENT */
fleet_status_t fleet_model_input_info(const fleet_model_t *model, uint32_t index, fleet_tensor_t *tensor);

/** Describe output `index`. @return FLEET_OK or FLEET_ERR_ARGUMENT */
fleet_status_t fleet_model_output_info(const fleet_model_t *model, uint32_t index, fleet_tensor_t *tensor);

/** Label of class `index`, or null where the image has none. Time grows with `index`. */
const char *fleet_model_label(const fleet_model_t *model, uint32_t index);

/**
 * Copy one input into the arena. With several inputs set all of them, then invoke: an inference overwrites them.
 * @param[in] data `size_bytes` of that input, int8, channels last; `bytes` must be exactly that
 * @param[out] arena 16-byte aligned, at least arena_bytes of fleet_model_info
 */
fleet_status_t fleet_model_set_input(const fleet_model_t *model, uint32_t index, const void *data, size_t bytes,
                                     void *arena, size_t arena_bytes);

/**
 * Run every op. What a model with state keeps goes on from the inference before.
 * @return FLEET_OK, FLEET_ERR_ARGUMENT, FLEET_ERR_ALIGNMENT, FLEET_ERR_ARENA FLEET_ERR_STATE: no state is
 *         attached; FLEET_ERR_LAYOUT for a cascade that asks for rows it has dropped (whatever the input is, so
 *         fleet_model_golden says so before any use)
 */
fleet_status_t fleet_model_invoke(const fleet_model_t *model, void *arena, size_t arena_bytes);

/** Run one op, or one row of a cascade. After the last one `cursor->index` equals op_count; a further call gives FLEET_ERR_ARGUMENT. */
fleet_status_t fleet_model_step(const fleet_model_t *model, fleet_cursor_t *cursor, void *arena, size_t arena_bytes,
                                fleet_step_t *step);

/** A free-running counter: DWT CYCCNT (ports/cortex_m), instructions of an emulator, a timer. It may wrap once an op. */
typedef uint32_t (*fleet_counter_t)(void *context);

/**
 * fleet_model_invoke with the counter read around every op.
 * @param[out] counts what each op took, in execution order, op_count entries
 * @param[in] capacity entries there are room for
 * @return FLEET_OK, FLEET_ERR_ARGUMENT (too little room) or an error of fleet_model_invoke
 */
fleet_status_t fleet_model_profile(const fleet_model_t *model, void *arena, size_t arena_bytes, fleet_counter_t counter,
                                   void *context, uint32_t *counts, uint32_t capacity);

/** Mark the unused part of a stack that begins at `low` (lowest address) and has `bytes`; call it from that stack. */
void fleet_stack_mark(uint32_t *low, size_t bytes);

/** Most bytes of a marked stack that were ever in use. Time grows with what was not. */
uint32_t fleet_stack_used(const uint32_t *low, size_t bytes);

/** Output `index` in the arena, valid until the arena is used again; null for a bad index. */
const int8_t *fleet_model_output(const fleet_model_t *model, uint32_t index, const void *arena);

/** One inference of a model with one input and one output: set_input, invoke, output. */
fleet_status_t fleet_model_run(const fleet_model_t *model, const void *input, size_t input_bytes, void *arena,
                               size_t arena_bytes, const int8_t **output);

/**
 * Run the image's golden vectors: FLEET_OK proves that this core and these kernels compute every op byte for byte as the
 * compiler did. Costs one inference a vector, two where the model has state, which is at its initial value afterwards. @return FLEET_OK, FLEET_ERR_GOLDEN or an error of fleet_model_invoke
 */
fleet_status_t fleet_model_golden(const fleet_model_t *model, void *arena, size_t arena_bytes);

/**
 * Real values to codes with a tensor's parameters: round half away from zero, clamp; not-a-number gives the zero point.
 * @param[out] quantized `count` codes of tensor->element, aligned for it
 */
void fleet_quantize(const fleet_tensor_t *tensor, const float *real, size_t count, void *quantized);

/** `count` codes of tensor->element to real values with a tensor's parameters. */
void fleet_dequantize(const fleet_tensor_t *tensor, const void *quantized, size_t count, float *real);

/** Best class of a classifier's output. */
typedef struct {
    uint32_t index;   /**< lowest index among equals */
    float confidence; /**< its real value clamped to 0 .. 1: the probability where the output is a softmax; 0 for not-a-number */
} fleet_top1_t;

/** Top-1 of `output` (tensor->size_bytes bytes of tensor->element). */
fleet_top1_t fleet_top1(const fleet_tensor_t *tensor, const void *output);

/** CRC-32 (reflected 0xEDB88320, as zlib). Start with 0; feed the result back to continue. */
uint32_t fleet_crc32(uint32_t crc, const void *data, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
