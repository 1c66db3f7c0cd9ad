/* SVDF: every filter forgets its oldest value and remembers its newest; then sums over what all remember. */
#include "fixed_point.h"
#include "internal.h"

#include <string.h>

/* Value i of an array of int8 or int16 at `at`, which is aligned for it. */
static int32_t value_at(const uint8_t *at, uint32_t i, int wide)
{
    return wide ? ((const int16_t *)(const void *)at)[i] : ((const int8_t *)at)[i];
}

static int32_t clamp(int32_t x, int32_t low, int32_t high)
{
    return x < low ? low : x > high ? high : x;
}

/* The zero point is added after the bounds: int8 wraps, as in the formula. */
static void remember(uint8_t *kept, const fleet_op_svdf_t *op, int32_t newest, int wide)
{
    const uint32_t width = wide ? 2u : 1u;
    memmove(kept, kept + width, (size_t)(op->memory - 1u) * width);
    if (wide) {
        ((int16_t *)(void *)kept)[op->memory - 1u] = (int16_t)clamp(newest, INT16_MIN, INT16_MAX);
    } else {
        kept[op->memory - 1u] = (uint8_t)(clamp(newest, INT8_MIN, INT8_MAX) + op->state_zero_point);
    }
}

static void filter_input(const fleet_kernel_context_t *context, const fleet_op_svdf_t *op, const int8_t *weights, int wide)
{
    const int8_t *input = context->arena + op->input;
    uint8_t *kept = context->state + op->state;
    for (uint32_t f = 0; f < op->filters; f++) {
        uint32_t sum = 0;
        for (uint32_t i = 0; i < op->features; i++) {
            sum += (uint32_t)((input[i] - op->input_zero_point) * weights[i]);
        }
        remember(kept, op, fleet_rescale((int32_t)sum, op->multiplier, op->shift), wide);
        weights += op->features;
        kept += (size_t)op->memory * (wide ? 2u : 1u);
    }
}

static void filter_time(const fleet_kernel_context_t *context, const fleet_op_svdf_t *op, const uint8_t *weights, int wide)
{
    const int32_t *biases = (const void *)(context->image + op->table);
    const uint8_t *kept = context->state + op->state;
    const uint32_t units = op->filters / op->rank;
    const uint32_t each = op->rank * op->memory;
    int8_t *output = context->arena + op->output;
    for (uint32_t unit = 0; unit < units; unit++) {
        uint32_t sum = (uint32_t)biases[unit];
        for (uint32_t i = unit * each; i < (unit + 1u) * each; i++) {
            sum += (uint32_t)value_at(weights, i, wide) * (uint32_t)(value_at(kept, i, wide) - op->state_zero_point);
        }
        output[unit] = fleet_to_int8(fleet_rescale((int32_t)sum, op->output_multiplier, op->output_shift),
                                     op->output_zero_point, op->activation_min, op->activation_max);
    }
}

void fleet_svdf(const fleet_kernel_context_t *context, const void *record)
{
    const fleet_op_svdf_t *op = record;
    const int wide = op->state_element == FLEET_ELEMENT_INT16;
    const uint8_t *over_time = context->image + op->table + 4u * (size_t)(op->filters / op->rank);
    const size_t bytes = (size_t)op->filters * op->memory * (wide ? 2u : 1u);
    filter_input(context, op, (const int8_t *)over_time + bytes, wide);
    filter_time(context, op, over_time, wide);
}
