/* Structure of the state table and of records that use the state: compiler/SPEC.md section 9 points 3 and 4. */
#include "check_state.h"

#define STATE_ALIGN 4u

static int state_is_inside(const fleet_image_header_t *header, uint32_t offset, uint64_t bytes)
{
    return offset % STATE_ALIGN == 0u && fleet_inside(offset, bytes, header->state_bytes);
}

static int fill_is_legal(uint32_t element, int32_t fill)
{
    if (element == FLEET_ELEMENT_INT8) {
        return fill >= INT8_MIN && fill <= INT8_MAX;
    }
    return element == FLEET_ELEMENT_INT16 ? fill >= INT16_MIN && fill <= INT16_MAX : fill == 0;
}

static int entry_is_legal(const fleet_image_header_t *header, const fleet_image_state_t *entry)
{
    const uint32_t width = entry->element == FLEET_ELEMENT_INT8 ? 1u : entry->element == FLEET_ELEMENT_INT16 ? 2u : 4u;
    const int data_is_legal = entry->data == FLEET_NO_OFFSET || (entry->data % FLEET_IMAGE_SECTION_ALIGN == 0u &&
                                                                 fleet_inside(entry->data, entry->size_bytes, header->image_bytes));
    return entry->element <= FLEET_ELEMENT_FLOAT32 && entry->size_bytes != 0u && entry->size_bytes % width == 0u &&
           state_is_inside(header, entry->state_offset, entry->size_bytes) && fill_is_legal(entry->element, entry->fill) &&
           data_is_legal && entry->name_offset >= header->strings_offset &&
           entry->name_offset - header->strings_offset < header->strings_bytes;
}

int fleet_states_are_legal(const fleet_image_header_t *header, const uint8_t *image)
{
    const uint32_t at = header->golden_offset + header->golden_bytes; /* the golden record was found inside the image */
    if (header->state_bytes == 0u) {
        return 1;
    }
    if (at % 4u != 0u || !fleet_inside(at, sizeof(fleet_image_states_t), header->image_bytes)) {
        return 0;
    }
    const fleet_image_states_t *head = (const void *)(image + at);
    const fleet_image_state_t *entries = (const void *)(head + 1);
    const uint64_t bytes = (uint64_t)head->count * sizeof(*entries);
    if (head->count == 0u || !fleet_inside(at + (uint32_t)sizeof(*head), bytes, header->image_bytes)) {
        return 0;
    }
    for (uint32_t i = 0; i < head->count; i++) {
        if (!entry_is_legal(header, &entries[i])) {
            return 0;
        }
    }
    return 1;
}

int fleet_check_state(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_state_t *op = record;
    extent->input_bytes = op->size;
    extent->output_bytes = op->size;
    return op->input == op->output && state_is_inside(header, op->state, op->size);
}

static int svdf_state_is_legal(const fleet_op_svdf_t *op)
{
    if (op->state_element == FLEET_ELEMENT_INT16) {
        return op->state_zero_point == 0;
    }
    return op->state_element == FLEET_ELEMENT_INT8 && op->state_zero_point >= INT8_MIN && op->state_zero_point <= INT8_MAX;
}

int fleet_check_svdf(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_svdf_t *op = record;
    const uint64_t width = op->state_element == FLEET_ELEMENT_INT16 ? 2u : 1u;
    extent->input_bytes = op->features;
    extent->output_bytes = op->rank != 0u ? op->filters / op->rank : 0u;
    if (op->rank == 0u || op->filters % op->rank != 0u || op->memory == 0u || op->filters > header->state_bytes ||
        op->memory > header->state_bytes || op->features > header->image_bytes) {
        return 0;
    }
    const uint64_t kept = (uint64_t)op->filters * op->memory * width;
    const uint64_t table = 4u * extent->output_bytes + kept + (uint64_t)op->filters * op->features;
    return svdf_state_is_legal(op) && state_is_inside(header, op->state, kept) &&
           op->table % FLEET_IMAGE_SECTION_ALIGN == 0u && fleet_inside(op->table, table, header->image_bytes) &&
           op->activation_min <= op->activation_max && fleet_multiplier_is_legal(op->multiplier, op->shift) &&
           fleet_multiplier_is_legal(op->output_multiplier, op->output_shift);
}

static int gates_are_legal(const fleet_op_gated_t *op)
{
    for (uint32_t i = 0; i < 2u * FLEET_GATES; i++) {
        if (!fleet_multiplier_is_legal(op->gate_multipliers[i], op->gate_shifts[i])) {
            return 0;
        }
    }
    return op->cell_power >= FLEET_LEAST_CELL_POWER && op->cell_power <= 0 && op->cell_clip >= 0 &&
           op->activation_min <= op->activation_max && fleet_multiplier_is_legal(op->output_multiplier, op->output_shift);
}

/* In scratch: cells and hidden states that have no place in the state, and reset hidden states. */
static int gates_have_room(const fleet_image_header_t *header, const fleet_op_gated_t *op)
{
    const int anew = op->hidden == FLEET_NO_OFFSET;
    const uint64_t parts = (anew ? 3u : 0u) + ((op->flags & FLEET_OP_FLAG_RESET_FIRST) != 0u ? 1u : 0u);
    if (parts != 0u && (op->scratch == FLEET_NO_OFFSET || op->scratch_bytes < parts * op->units)) {
        return 0;
    }
    if (anew) {
        return op->cell == FLEET_NO_OFFSET && op->scratch % 2u == 0u;
    }
    return (op->flags & FLEET_OP_FLAG_GIVEN_START) == 0u && state_is_inside(header, op->hidden, op->units) &&
           state_is_inside(header, op->cell, 2u * (uint64_t)op->units);
}

int fleet_check_gates(const fleet_image_header_t *header, const void *record, fleet_extent_t *extent)
{
    const fleet_op_gated_t *op = record;
    extent->input_bytes = (uint64_t)op->steps * op->features;
    extent->output_bytes = (uint64_t)op->steps * op->units;
    if (op->steps == 0u || op->units == 0u || op->units > header->image_bytes / 32u || op->features > header->image_bytes) {
        return 0;
    }
    const int gru = op->code == FLEET_OP_GRU;
    const uint64_t start = (op->flags & FLEET_OP_FLAG_GIVEN_START) != 0u ? 3u * (uint64_t)op->units : 0u;
    const uint64_t rows = (uint64_t)(gru ? FLEET_GATES - 1u : FLEET_GATES) * op->units;
    const uint64_t table = rows * (8u + op->features + op->units) + start;
    return gates_have_room(header, op) && (!gru || (op->cell_power == -15 && op->cell_clip == 0)) &&
           op->table % FLEET_IMAGE_SECTION_ALIGN == 0u && fleet_inside(op->table, table, header->image_bytes) &&
           gates_are_legal(op);
}
