/* Structure of the float32 records that move elements, and of those between codes and real numbers. */
#include "check_float.h"

#define BYTES 4u

static int in_bytes(const void *record, fleet_extent_t *extent)
{
    const fleet_op_t *op = record;
    extent->input_bytes *= BYTES;
    extent->output_bytes *= BYTES;
    return extent->input_bytes != 0u && extent->output_bytes != 0u && op->input % BYTES == 0u && op->output % BYTES == 0u;
}

int fleet_check_pad_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_pad_f32_t *op = record;
    uint64_t inner[4];
    uint64_t outer[4];
    for (int axis = 0; axis < 4; axis++) {
        inner[axis] = op->dims[axis];
        outer[axis] = (uint64_t)op->before[axis] + op->dims[axis] + op->after[axis];
    }
    extent->input_bytes = fleet_bounded_product(inner, header->arena_bytes);
    extent->output_bytes = fleet_bounded_product(outer, header->arena_bytes);
    return in_bytes(op, extent);
}

int fleet_check_strided_copy_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_strided_copy_f32_t *op = record;
    const uint64_t sizes[4] = {op->dims[0], op->dims[1], op->dims[2], op->dims[3]};
    extent->output_bytes = fleet_bounded_product(sizes, header->arena_bytes);
    if (extent->output_bytes == 0u || op->start >= header->arena_bytes) {
        return 0;
    }
    int64_t lowest = op->start;
    int64_t highest = op->start;
    for (int axis = 0; axis < 4; axis++) {
        const int64_t reach = (int64_t)(op->dims[axis] - 1u) * op->strides[axis]; /* below 2^62 */
        if (reach > (int64_t)header->arena_bytes || reach < -(int64_t)header->arena_bytes) {
            return 0;
        }
        lowest += reach < 0 ? reach : 0;
        highest += reach > 0 ? reach : 0;
    }
    extent->input_bytes = (uint64_t)highest + 1u;
    return in_bytes(op, extent) && lowest >= 0;
}

/* `count` pairs: a place that is a whole number, and the part of the next one, below 1. */
static int places_are_legal(const float *places, uint32_t count, uint32_t size)
{
    for (uint32_t i = 0; i < count; i++) {
        const float place = places[2u * i];
        const float part = places[2u * i + 1u];
        if (!(place >= 0.0f && place < 0x1p24f) || (float)(uint32_t)place < place || !(part >= 0.0f && part < 1.0f) ||
            (uint32_t)place + (part > 0.0f ? 1u : 0u) >= size) {
            return 0;
        }
    }
    return 1;
}

int fleet_check_resize_f32(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_resize_f32_t *op = record;
    const uint64_t inner[4] = {1, op->in_h, op->in_w, op->in_c};
    const uint64_t outer[4] = {1, op->out_h, op->out_w, op->in_c};
    extent->input_bytes = fleet_bounded_product(inner, header->arena_bytes);
    extent->output_bytes = fleet_bounded_product(outer, header->arena_bytes);
    const uint64_t bytes = ((uint64_t)op->out_h + op->out_w) * 2u * BYTES;
    if (!in_bytes(op, extent) || op->table % BYTES != 0u || !fleet_inside(op->table, bytes, header->image_bytes)) {
        return 0;
    }
    /* The header is the first byte of the image. */
    const float *table = (const void *)((const uint8_t *)header + op->table);
    return op->activation_min <= op->activation_max && places_are_legal(table, op->out_h, op->in_h) &&
           places_are_legal(table + 2u * (size_t)op->out_h, op->out_w, op->in_w);
}

/* 0 for a type that holds no codes. */
static uint32_t code_bytes(uint32_t element)
{
    return element == FLEET_ELEMENT_INT8 ? 1u : element == FLEET_ELEMENT_INT16 ? 2u : 0u;
}

int fleet_check_quantize(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_quantize_t *op = record;
    const int to_codes = op->code == FLEET_OP_QUANTIZE;
    const uint32_t real = to_codes ? op->input_element : op->output_element;
    const uint32_t bytes = code_bytes(to_codes ? op->output_element : op->input_element);
    const int32_t limit = bytes == 2u ? INT16_MAX : INT8_MAX;
    (void)header;
    extent->input_bytes = (uint64_t)op->size * (to_codes ? BYTES : bytes);
    extent->output_bytes = (uint64_t)op->size * (to_codes ? bytes : BYTES);
    return bytes != 0u && real == FLEET_ELEMENT_FLOAT32 && op->scale > 0.0f && op->scale < 1e38f &&
           op->zero_point >= -limit - 1 && op->zero_point <= limit && op->input % (to_codes ? BYTES : bytes) == 0u &&
           op->output % (to_codes ? bytes : BYTES) == 0u;
}
